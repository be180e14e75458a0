"""`mutirao up` as a person uses it: real Redis, real workers, real signals."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import psutil
import pytest
import redis

from mutirao import Client
from mutirao.embedded import Embedded, redis_binary
from mutirao.errors import EmbeddedError
from support import sample_models, waiting

ROWS = sample_models.get("iris").data[::8]
# What is asked of Redis and a worker needs no more beside them: each is a process that imports its libraries for seconds.
ALONE = ("--workers", "1", "--no-gateway", "--no-flower")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The environment of workers that serve iris and slow."""
    root = sample_models.repository(tmp_path_factory.mktemp("models"), "iris", "slow").root
    return {"MUTIRAO_MODELS": str(root), "PYTHONPATH": sample_models.PYTHONPATH}


@pytest.fixture
def env(models, tmp_path):
    return {**os.environ, **models, "MUTIRAO_HOME": str(tmp_path / "home"), "UP_TEST": str(tmp_path)}


class Up:
    """`mutirao up` in a process, its output in a file."""

    def __init__(self, env, folder, *options):
        self.folder, self.home = folder, env["MUTIRAO_HOME"]
        self._said = folder / "said"
        with self._said.open("wb") as out:
            command = [sys.executable, "-m", "mutirao", "up", "--concurrency", "1", *options]
            self.process = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out)

    @property
    def said(self):
        return self._said.read_text()

    def wait_up(self):
        waiting.until(lambda: "Ctrl-C ends it" in self.said or self.process.poll() is not None, timeout_s=90)
        assert self.process.poll() is None, self.said
        return self

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def running(self):
        """Every process of this system but the first; Redis overwrites its environment, but stands in its data folder."""
        return [process for process in psutil.process_iter() if self._ours(process)]

    def _ours(self, process):
        with contextlib.suppress(psutil.Error):
            if process.pid in (os.getpid(), self.process.pid) or process.status() == psutil.STATUS_ZOMBIE:
                return False
            return process.environ().get("UP_TEST") == str(self.folder) or process.cwd() == f"{self.home}/redis"
        return False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        try:
            waiting.until(lambda: not self.running())
        finally:
            for process in self.running():
                process.kill()


@pytest.fixture
def client(env):
    """A client that finds the system by its folder alone, as another terminal would."""
    return lambda: Client(home=env["MUTIRAO_HOME"])


def second_up(env):
    return subprocess.run([sys.executable, "-m", "mutirao", "up"], env=env, capture_output=True, text=True, check=False)


def test_one_command_serves_predictions_and_ctrl_c_ends_it(env, tmp_path, client):
    """Up says what runs; a client finds it by its folder and gets the model's own answers; a second up is refused by name; Ctrl-C ends all, code 0."""
    with Up(env, tmp_path, "--no-flower").wait_up() as up:
        (console,) = re.findall(r"Console +(http://127.0.0.1:\d+)", up.said)
        assert "<title>" in httpx.get(console, trust_env=False).text
        waiting.until(lambda: httpx.get(f"{console}/v2/health/ready", trust_env=False).json() == {"ready": True})
        for expected in (str(redis_binary.find()), "worker1@", "worker2@", "iris, slow", "mutirao predict iris"):
            assert expected in up.said
        with client() as asking:
            answer = asking.predict("iris", ROWS, timeout=30)
        np.testing.assert_array_equal(answer["predict_proba"], sample_models.get("iris").model.predict_proba(ROWS))
        second = second_up(env)
        assert (second.returncode, second.stdout) == (1, "")
        (line,) = second.stderr.splitlines()
        assert str(tmp_path / "home") in line
        assert f"process {up.process.pid}" in line
        assert up.end() == 0
        assert not up.running()
        assert "ended." in up.said


def test_a_usual_port_that_is_taken_is_told(env, tmp_path):
    """Where another program has the gateway's usual port, `up` says so beside the address that it took instead."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # another program has it already
            taken.bind(("127.0.0.1", 8000))
            taken.listen()
        with Up(env, tmp_path, "--no-flower", "--workers", "1").wait_up() as up:
            (console,) = re.findall(r"Console +(http://127.0.0.1:\d+)", up.said)
            assert f"port 8000 is another program's here: use {console}" in up.said
            assert up.end() == 0


def _squat(url):
    """Listen to a server's port before it does."""
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", int(url.rpartition(":")[2])))
    other.listen()
    return other


def test_another_program_that_takes_a_usual_port_meanwhile_is_left_alone(env, monkeypatch):
    """Where another program listens to a port before the gateway or Flower does, these go elsewhere, and the console says where."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    incidents: list[object] = []
    system = Embedded(workers=1, concurrency=1, flower=True, gateway=True, report=incidents.append)
    with system:
        gateway, flower = system.gateway_url, system.flower_url
        with _squat(gateway), _squat(flower):
            system.wait_ready()
            assert system.gateway_url != gateway
            assert httpx.get(f"{system.gateway_url}/v2/health/live").status_code == 200
            waiting.until(lambda: system.flower_url != flower)
            assert json.loads((system.home.state).read_text())["gateway_url"] == system.gateway_url
        assert any(
            f"again in 0.5 s at {system.gateway_url}, since another program has port" in str(each) for each in incidents
        )


def test_another_program_that_takes_a_named_port_meanwhile_is_said(env, monkeypatch):
    """Where somebody named the gateway's port, and another program takes it before the gateway does, the reason is said; nothing moves."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    system = Embedded(workers=1, concurrency=1, flower=False, gateway=True, gateway_port=port)
    with (
        system,
        _squat(system.gateway_url),
        pytest.raises(EmbeddedError, match=r"gateway died each time it was started: .* is in use"),
    ):
        system.wait_ready()


def test_kill_9_leaves_no_orphan(env, tmp_path):
    """When the parent is killed, Redis, workers, their pool children and Flower end by themselves, and the folder is free again."""
    with Up(env, tmp_path, "--flower-port", "15555").wait_up() as up:
        assert len(up.running()) >= 7  # redis, the watchdog, two workers with a child each, Flower
        up.process.kill()
        up.process.wait()
        waiting.until(lambda: not up.running())
        assert not (tmp_path / "home" / "up.json").exists()


def test_what_was_queued_is_answered_after_a_restart(env, tmp_path, client):
    """Requests queued while no worker ran, and before Redis was stopped, are answered by the next `up` in the folder."""
    with (
        Embedded(env["MUTIRAO_HOME"], workers=0, flower=False) as system,
        Client(system.broker_url, check=False) as asking,
    ):
        ids = [job.id for job in asking.submit_many("iris", ROWS)]
    with Up(env, tmp_path, *ALONE).wait_up(), client() as asking:
        answers = [int(asking.job(id).result(30)["predict"][0]) for id in ids]
    assert answers == sample_models.get("iris").model.predict(ROWS).tolist()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_workers_finish_what_they_compute(number, env, tmp_path, client):
    """A service manager and a closed terminal end it as Ctrl-C does: what was begun is answered first, what waited stays queued."""
    with Up(env, tmp_path, "--no-flower", "--workers", "1").wait_up() as up:
        with client() as asking:
            ids = [job.id for job in asking.submit_many("slow", [[2.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]])]
            waiting.until(lambda: asking.job(ids[0]).status == "running")
        assert up.end(number) == 0
        assert not up.running()
    with Embedded(env["MUTIRAO_HOME"], workers=0, flower=False) as system, Client(system.broker_url) as asking:
        assert asking.job(ids[0]).status == "succeeded"
        assert asking.job(ids[2]).status == "queued"
        assert asking.job(ids[1]).status == "queued"


def test_a_second_ctrl_c_does_not_wait_for_the_workers(env, tmp_path, client):
    """Impatience is answered within seconds, however often it is shown; Redis still ends as it should."""
    with Up(env, tmp_path, "--no-flower", "--workers", "1").wait_up() as up:
        with client() as asking:
            job = asking.submit("slow", [[15.0, 0, 0]])
            waiting.until(lambda: job.status == "running")
        up.process.send_signal(signal.SIGINT)
        waiting.until(lambda: "ending:" in up.said)
        before = time.monotonic()
        waiting.until(lambda: up.process.send_signal(signal.SIGINT) or up.process.poll() is not None)
        assert up.process.returncode == 0, up.said
        assert time.monotonic() - before < 8
        assert not up.running()
        log = (tmp_path / "home" / "log" / "redis.log").read_text()
        assert re.search(r"bye bye", log)


def test_what_a_power_cut_interrupted_is_answered_after_the_restart(env, tmp_path, client):
    """Everything killed at once in the middle of a prediction: the next `up` answers it within seconds, not after kombu's two minutes."""
    with Up(env, tmp_path, *ALONE).wait_up() as up:
        with client() as asking, redis.Redis.from_url(asking.settings.broker_url) as server:
            job = asking.submit("slow", [[3.0, 0, 0]])
            waiting.until(lambda: job.status == "running")
            waiting.until(lambda: server.info("persistence")["aof_pending_bio_fsync"] == 0)
        everything = [up.process, *up.running()]
        for process in everything:
            process.send_signal(signal.SIGSTOP)
        for process in everything:
            process.kill()
        up.process.wait()
        waiting.until(lambda: not up.running())
    with Up(env, tmp_path, *ALONE).wait_up(), client() as asking:
        assert float(asking.job(job.id).result(40)["predict"][0]) == 3.0


def test_a_killed_worker_is_replaced_and_said_so(env, tmp_path, client):
    """The console names the worker, how it ended and its log; predictions go on."""
    with Up(env, tmp_path, *ALONE).wait_up() as up, client() as asking:
        (first,) = asking.predict("iris", ROWS[:1], timeout=30)["predict"]
        with redis.Redis.from_url(asking.settings.broker_url) as server:
            (announced,) = server.hvals("mutirao:workers")
        os.kill(json.loads(announced)["pid"], signal.SIGKILL)
        waiting.until(lambda: "worker1 (process" in up.said)
        assert re.search(
            r"worker1 \(process \d+\) was ended by SIGKILL; starting it again in 0.5 s; its log: .*worker1\.log",
            up.said,
        )
        (second,) = asking.predict("iris", ROWS[:1], timeout=60)["predict"]
        assert first == second


def test_an_empty_repository_is_said_at_once(env, tmp_path):
    """Without a model there is nothing to serve: one line that names the folder and the command that adds one."""
    empty = {**env, "MUTIRAO_MODELS": str(tmp_path / "none")}
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mutirao", "up"], env=empty, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"error: there is no model in {tmp_path / 'none'}: add one with `mutirao models add NAME FILE`, or name another folder with --models"
    )
    assert time.monotonic() - before < 5
