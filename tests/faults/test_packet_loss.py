"""A network that drops packets without a word: once it is whole again, every worker takes work again within seconds."""

import contextlib
import functools
import time

import pytest

from mutirao import Client, keyspace
from support import execution_log, network_namespaces, waiting, worker_process
from support.redis_servers import RedisServer
from support.tcp_proxy import TcpProxy
from support.worker_process import BIN, WorkerProcess

ROW = [[0.0, 1.0, 2.0]]
MANY = ROW * 4000  # four seconds of work
AGAIN_S = 10
PATIENCE_S = {"MUTIRAO_TIMEOUT_S": "1", "MUTIRAO_LEASE_S": "3"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return execution_log.repository(
        tmp_path_factory.mktemp("cuts") / "models", {f"own{number}": 0.001 for number in range(3)}
    )


def _answered(client, model):
    assert client.predict(model, ROW, timeout=AGAIN_S)["predict"].tolist() == [5.0]


@pytest.mark.timeout(240)
def test_connections_that_fall_silent(redis_server, root):
    """An idle worker whose connections pass nothing on any more, in one direction or in both, for good or for a while, goes on."""
    with (
        TcpProxy(redis_server.port) as proxy,
        Client(redis_server.url) as client,
        WorkerProcess(proxy.url, root, env=PATIENCE_S) as worker,
    ):
        _answered(client, "own0")
        for lost in (("requests", "replies"), ("replies",)):
            proxy.forget(*lost)
            _answered(client, "own0")
        proxy.blackhole()
        admin = redis_server.client()
        waiting.until(lambda: not admin.zcount(keyspace.LEASES, admin.time()[0], "+inf"), what=lambda: worker.log)
        proxy.heal()
        _answered(client, "own0")
        assert worker.process.poll() is None


def _runs(job):
    return job.status == "running"


@contextlib.contextmanager
def _three(root):
    """Three workers, each on a host of its own, each of which alone serves its model; a Redis and a client that are here."""
    if why := network_namespaces.missing():
        pytest.skip(why)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer(options={"bind": "0.0.0.0", "protected-mode": "no"}))
        hosts, started = [network_namespaces.Host(number) for number in (1, 2, 3)], []
        for number, host in enumerate(hosts):
            stack.callback(host.close)
            worker_process.COMMANDS[f"host{number}"] = (*host.prefix, str(BIN / "mutirao"), "worker")
            stack.callback(worker_process.COMMANDS.pop, f"host{number}")
            url = server.url.replace("127.0.0.1", host.gateway)
            args = ["--only", f"own{number}"]
            started.append(WorkerProcess(url, root, command=f"host{number}", args=args, wait=False))
            stack.callback(started[-1].close)
        for worker in started:
            worker.wait_ready()
        yield stack.enter_context(Client(server.url)), hosts, started


@pytest.mark.long
@pytest.mark.timeout(900)
def test_packets_are_dropped(root):  # noqa: C901 - one cut after another
    """Packets of three workers dropped for a minute, both ways or one way, and those of their open connections for good: all go on."""
    with _three(root) as (client, hosts, started):
        models = [f"own{number}" for number in range(3)]
        for model in models:
            _answered(client, model)
        for chains in (("INPUT", "OUTPUT"), ("INPUT",), ("OUTPUT",)):
            for lasts_s in (35, 60):
                running = [client.submit(model, MANY) for model in models]
                for job in running:
                    waiting.until(functools.partial(_runs, job))
                for host in hosts:
                    host.drop(*chains)
                time.sleep(lasts_s)  # the fault itself
                for host in hosts:
                    host.heal()
                back = time.monotonic()
                jobs = [client.submit(model, ROW) for model in models]
                for job in jobs:
                    assert job.result(back + AGAIN_S - time.monotonic())["predict"].tolist() == [5.0], (chains, lasts_s)
                for job in running:
                    assert len(job.result(30)["predict"]) == len(MANY)
        for host, worker in zip(hosts, started, strict=True):
            host.forget(worker.pid)
        back = time.monotonic()
        jobs = [client.submit(model, ROW) for model in models]
        for job in jobs:
            assert job.result(back + AGAIN_S - time.monotonic())["predict"].tolist() == [5.0]
        assert [worker.process.poll() for worker in started] == [None] * 3
