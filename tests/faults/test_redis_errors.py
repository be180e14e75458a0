"""A Redis that answers with errors is away for a while: the worker lives, says so once, and takes work again when it does not."""

import contextlib
import os
import re
import subprocess
import sys
import time

import psutil
import pytest
from redis import ResponseError

from mutirao import Client, keyspace
from mutirao.embedded.redis_server import free_port
from support import execution_log, sample_models, waiting
from support.redis_servers import RedisServer
from support.webhook_process import Jobs, WebhookProcess, hosts
from support.webhook_receivers import Receiver
from support.worker_process import WorkerProcess

ROW = [[0.0, 1.0, 2.0]]
AGAIN_S = 10
FAULT_S = 3


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """A Redis and one worker, which every test leaves alive."""
    root = execution_log.repository(tmp_path_factory.mktemp("refusals") / "models")
    patience = {"MUTIRAO_TIMEOUT_S": "1"}
    with RedisServer() as server, WorkerProcess(server.url, root, env=patience) as worker:
        yield server, worker


@contextlib.contextmanager
def _replica(server, admin):
    """A planned failover: for a while the server is a replica."""
    admin.replicaof("127.0.0.1", free_port())
    yield
    admin.execute_command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def _without_its_master(server, admin):
    """MASTERDOWN: a replica that answers nothing while its master is away."""
    admin.config_set("replica-serve-stale-data", "no")
    admin.replicaof("127.0.0.1", free_port())
    yield
    admin.execute_command("REPLICAOF", "NO", "ONE")
    admin.config_set("replica-serve-stale-data", "yes")


@contextlib.contextmanager
def _unable_to_save(server, admin):
    """MISCONF: the disk took no snapshot; here, since the file could not be opened."""
    process = psutil.Process(server.pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    admin.config_set("save", "3600 1")
    process.rlimit(psutil.RLIMIT_NOFILE, (3, hard))
    with contextlib.suppress(ResponseError):
        admin.bgsave()
    waiting.until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
    yield
    admin.config_set("save", "")


@contextlib.contextmanager
def _short_of_replicas(server, admin):
    admin.config_set("min-replicas-to-write", 1)
    yield
    admin.config_set("min-replicas-to-write", 0)


def _forbidden(*commands):
    @contextlib.contextmanager
    def fault(server, admin):
        """NOPERM: an operator takes rights away."""
        admin.execute_command("ACL", "SETUSER", "default", *(f"-{command}" for command in commands))
        yield
        admin.execute_command("ACL", "SETUSER", "default", "+@all")

    return fault


@contextlib.contextmanager
def _locked(server, admin):
    """NOAUTH: a password is set, and every connection cut."""
    admin.config_set("requirepass", "changed")
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield
    admin.config_set("requirepass", "")


@contextlib.contextmanager
def _busy(server, admin):
    """BUSY: a script runs for ever."""
    admin.config_set("lua-time-limit", 50)
    hog = server.client()
    connection = hog.connection_pool.get_connection()
    connection.send_command("EVAL", "while true do end", 0)
    yield
    admin.execute_command("SCRIPT", "KILL")
    with contextlib.suppress(ResponseError):
        connection.read_response()
    hog.connection_pool.release(connection)


@contextlib.contextmanager
def _hanging(server, admin):
    """No error, but no answer either, for longer than one may take."""
    server.pause()
    yield
    server.resume()


FAULTS = {
    "a planned failover": _replica,
    "a replica without its master": _without_its_master,
    "a full disk": _unable_to_save,
    "too few replicas": _short_of_replicas,
    "no right to listen": _forbidden("brpop"),
    "no right to run scripts": _forbidden("evalsha", "eval"),
    "no right to subscribe and publish": _forbidden("psubscribe", "subscribe", "publish"),
    "another password": _locked,
    "a script without end": _busy,
    "silence": _hanging,
}


@pytest.mark.parametrize("name", FAULTS)
def test_refused(system, name):
    """Whatever Redis answers instead, what ran meanwhile is kept, the worker says so once, and takes work again within 10 s."""
    server, worker = system
    admin = server.client()
    with Client(server.url) as client:
        assert client.predict("quick", ROW, timeout=20)["predict"].tolist() == [5.0]
        said = len(worker.log)
        running = client.submit("dear", [[0.0, number, 1.0] for number in range(50)])  # for a second
        waiting.until(lambda: admin.exists(keyspace.reserved_key(_identity(admin))))
        with FAULTS[name](server, admin):
            time.sleep(FAULT_S)  # the fault itself
        assert running.result(AGAIN_S)["predict"].tolist() == [3.0 * number + 1 for number in range(50)]
        assert client.predict("quick", ROW, timeout=AGAIN_S)["predict"].tolist() == [5.0]
    assert worker.process.poll() is None, worker.log
    lines = _warnings(worker.log[said:])
    assert len(lines) == len({line.partition("] ")[2] for line in lines}), "\n".join(lines)
    assert "Traceback" not in worker.log[said:]


@pytest.mark.parametrize("name", ["a planned failover", "no right to listen"])
def test_courier_refused(system, name):
    """Whoever tells receivers of jobs' ends lives through it as well, and tells what ended meanwhile."""
    server, _ = system
    with (
        Receiver() as receiver,
        WebhookProcess(server.url, hosts(receiver), env={"MUTIRAO_TIMEOUT_S": "1"}) as courier,
        Jobs(server.url) as jobs,
    ):
        jobs.end(receiver.url)
        receiver.wait(1)
        with FAULTS[name](server, server.client()):
            courier.wait_logged("is away, connecting again")
        jobs.end(receiver.url)
        receiver.wait(2)
        courier.wait_logged("is back")
        assert courier.stop() == 0


def test_giving_up_is_no_success(system, tmp_path):
    """A worker that a fault of its own has ended exits with another code than one that was told to stop."""
    server, _ = system
    root = execution_log.repository(tmp_path / "models", {"quick": 0.001})
    program = (
        "from mutirao_worker import app; from mutirao_worker.celery_adapter import engine_step; from mutirao_worker.cli import worker;"
        "engine_step.EngineStep.start = lambda *_: 1 / 0; worker.run(app.app, ['--quiet', 'worker', '--pool=solo'])"
    )
    own = {"MUTIRAO_BROKER_URL": server.url, "MUTIRAO_MODELS": str(root), "PYTHONPATH": sample_models.PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert "ZeroDivisionError" in done.stderr
    assert done.returncode == 1


def _identity(admin):
    (identity,) = (name.decode() for name in admin.zrange(keyspace.LEASES, 0, -1))
    return identity


def _warnings(log):
    return re.findall(r"^\[.*(?:WARNING|ERROR|CRITICAL)/.*", log, re.MULTILINE)
