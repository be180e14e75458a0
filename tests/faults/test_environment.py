"""Workers in poor surroundings: no log can be written, few files may be open, no home, no UTF-8, no shared memory, a clock that jumps."""

import os
from pathlib import Path
from typing import Any

import pytest

from mutirao import Client
from support import brokers, sample_models
from support.redis_servers import RedisServer
from support.worker_process import COMMANDS, WorkerProcess

pytestmark = pytest.mark.executed

ROW = [5.1, 3.5, 1.4, 0.2]
HOUSE = [300.0, "São João del-Rei", 7]
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
SHELL = {
    # Standard input closed, standard output and error a disk that is full, 96 open files at most.
    "full log": 'ulimit -n 96; exec "$@" <&- >/dev/full 2>&1',
    # Whoever read the log has gone.
    "broken log pipe": 'exec "$@" > >(true) 2>&1',
    # A mount namespace of its own, in which nothing can be written to /dev/shm.
    "no shared memory": 'exec unshare --mount sh -c \'mount -t tmpfs -o ro none /dev/shm && exec "$@"\' sh "$@"',
    "no log at all": 'exec "$@" <&- >&- 2>&-',
}
POOR = {
    "HOME": "/proc/nowhere",
    "LC_ALL": "C",
    "LANG": "C",
    "TZ": "Pacific/Apia",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
}
COMMANDS |= {name: ("bash", "-c", script, "bash", *COMMANDS["mutirao"]) for name, script in SHELL.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A Redis and a repository."""
    root = sample_models.repository(tmp_path_factory.mktemp("surroundings") / "models", "iris", "houses").root
    with RedisServer() as server:
        yield server, root


def _serves(client):
    assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
    assert client.predict("houses", [HOUSE], timeout=20)["predict"].tolist() == ["dear"]


def _streams(pid):
    return {Path(f"/proc/{pid}/fd/{number}").readlink() for number in range(3)}


@pytest.mark.parametrize("name", ["full log", "broken log pipe", "no log at all"])
def test_poor_worker(place, name):
    """Without a log, a home, UTF-8 and the usual number of files a worker serves, also after a child was killed, and stops in order."""
    server, root = place
    with WorkerProcess(server.url, root, command=name, env=POOR) as worker, Client(server.url) as client:
        _serves(client)
        # What takes the place of a standard stream is written to: it must be no connection.
        assert name != "no log at all" or _streams(worker.pid) == {Path(os.devnull)}
        worker.children[-1].kill()
        _serves(client)
        worker.stop()
        assert worker.process.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_no_shared_memory(place):
    """Where processes can share no memory a worker refuses to start in one line that says what to do; what it says works."""
    server, root = place
    with WorkerProcess(server.url, root, command="no shared memory", wait=False) as worker:
        assert worker.wait_ended() == 2
        assert worker.log.count("\n") == 1
        assert "make /dev/shm writable, or use --pool threads" in worker.log
    with (
        WorkerProcess(server.url, root, command="no shared memory", args=("--pool", "threads")),
        Client(server.url) as client,
    ):
        _serves(client)


@brokers.redis_only
@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed (apt-get install libfaketime)")
def test_clock_that_jumps(place, tmp_path):
    """A worker whose clock is days off, and jumps by days to either side, answers; times and deadlines are by Redis's clock."""
    server, root = place
    clock = tmp_path / "clock"
    clock.write_text("+0")
    env = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with WorkerProcess(server.url, root, env=env) as worker, Client(server.url) as client:
        for offset in ("+0", "+40d", "-40d", "+0"):
            clock.write_text(offset)
            _serves(client)
            job = client.submit("iris", [ROW], expires_s=30)
            job.result(20)
            told: Any = job.record().job
            times = [told.queued_at, told.reserved_at, told.started_at, told.finished_at, server.client().time()[0] + 1]
            assert times == sorted(times)
        worker.stop()
        assert worker.process.returncode == 0
