"""A Redis that forgets, cuts, has no room or holds what nobody expects: the worker lives, keeps what it ran, and takes work again."""

import contextlib
import socket

import pytest
from celery import Celery

from mutirao import Client, MutiraoError, keyspace
from support import brokers, execution_log, waiting
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

pytestmark = brokers.redis_only

ROW = [[0.0, 1.0, 2.0]]
AGAIN_S = 15
QUICK, DEAR = keyspace.queue("quick"), keyspace.queue("dear")


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """A Redis that keeps nothing over a restart, and one worker, which every test leaves alive."""
    root = execution_log.repository(tmp_path_factory.mktemp("upheavals") / "models")
    with (
        RedisServer(options={"appendonly": "no"}) as server,
        WorkerProcess(server.url, root, env={"MUTIRAO_TIMEOUT_S": "2"}) as worker,
    ):
        yield server, worker


def _served(client):
    """Ask until a request is answered: what is sent in the midst of an upheaval may be refused, or forgotten with it."""

    def answered():
        try:
            return client.predict("quick", ROW, timeout=3)["predict"].tolist() == [5.0]
        except MutiraoError:
            return False

    waiting.until(answered, timeout_s=AGAIN_S)


def _running(client, admin):
    """A request that runs for a second."""
    job = client.submit("dear", [[0.0, number, 1.0] for number in range(50)])
    waiting.until(lambda: any(map(admin.exists, _reserved(admin))))
    return job


def _reserved(admin):
    return [keyspace.reserved_key(name.decode()) for name in admin.zrange(keyspace.LEASES, 0, -1)]


def _again(fault, job):
    """Do it again and again until a job has ended."""
    while not job.done():
        fault()


def _forgets_scripts(server, admin, job):
    _again(admin.script_flush, job)


def _cuts_every_connection(server, admin, job):
    for _ in range(20):
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")


def _is_emptied(server, admin, job):
    admin.flushall()


def _comes_back_empty(server, admin, job):
    server.restart(kill=True)


def _has_no_room_for_connections(server, admin, job):
    """Others take all the connections that Redis has left; ours are cut, and cannot come again."""
    most = admin.config_get("maxclients")["maxclients"]
    with contextlib.ExitStack() as stack:
        admin.config_set("maxclients", 20)
        address = ("127.0.0.1", server.port)
        for _ in range(20):
            stack.enter_context(socket.create_connection(address))
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
        waiting.until(lambda: admin.info("stats")["rejected_connections"] > 0)
    admin.config_set("maxclients", most)


def _has_a_deaf_client(server, admin, job):
    """Somebody subscribes to all results and never reads one, until Redis has had enough of that."""
    before = admin.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    admin.config_set("client-output-buffer-limit", "pubsub 65536 65536 1")
    with Client(server.url) as client, socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"PSUBSCRIBE celery-task-meta-* mutirao:reply:*\r\n")
        name = "{}:{}".format(*deaf.getsockname())
        waiting.until(lambda: any(each["addr"] == name for each in admin.client_list()))
        while any(each["addr"] == name for each in admin.client_list()):
            jobs = client.submit_many("quick", ROW * 2000)
            assert [each.result(AGAIN_S)["predict"].tolist() for each in jobs] == [[5.0]] * 2000
    admin.config_set("client-output-buffer-limit", before)


UPHEAVALS = {
    "forgets its scripts": _forgets_scripts,
    "cuts every connection": _cuts_every_connection,
    "is emptied": _is_emptied,
    "comes back empty": _comes_back_empty,
    "has no room for connections": _has_no_room_for_connections,
    "has a deaf client": _has_a_deaf_client,
}


@pytest.mark.parametrize("name", UPHEAVALS)
def test_redis(system, name):
    """Whatever Redis does, a request that ran meanwhile is kept, and the next ones are answered soon."""
    server, worker = system
    admin = server.client()
    with Client(server.url, timeout_s=2) as client:
        _served(client)
        job = _running(client, admin)
        UPHEAVALS[name](server, admin, job)
        waiting.until(
            lambda: admin.exists(keyspace.record_key(job.id)) and job.done(), timeout_s=AGAIN_S, what=lambda: worker.log
        )
        assert job.result(1)["predict"].tolist() == [3.0 * number + 1 for number in range(50)]
        _served(client)
    assert worker.process.poll() is None, worker.log
    assert "Traceback" not in worker.log


KEYS = [
    QUICK, keyspace.wakeup_key(QUICK), f"mutirao:poller:{QUICK}", keyspace.tenants_key(QUICK), keyspace.consumers_key(QUICK),
    keyspace.LEASES, keyspace.SLOTS, keyspace.LIST_COUNTS, keyspace.WORKERS, keyspace.MODELS, keyspace.DEAD, keyspace.DEAD_INDEX,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_another_type(system, key):
    """A key that holds by mistake what it never should ends no worker; whatever was accepted meanwhile is answered once it is gone."""
    server, worker = system
    admin = server.client()
    jobs = []
    with Client(server.url, timeout_s=2, check=False) as client:
        _served(client)
        with admin.pipeline() as at_once:
            at_once.delete(key)
            at_once.hset(key, "x", "x") if key != keyspace.LIST_COUNTS else at_once.set(key, "x")
            at_once.execute()
        for model in ("quick", "dear"):
            with contextlib.suppress(MutiraoError):
                jobs.append(client.submit(model, ROW))
        with contextlib.suppress(MutiraoError):
            for job in jobs:
                job.result(0.5)
        admin.delete(key)
        assert [job.result(AGAIN_S)["predict"].tolist() for job in jobs] == [[5.0]] * len(jobs)
        _served(client)
    assert worker.process.poll() is None, worker.log


def test_a_hundred_queues(system):
    """A worker that is told to consume a hundred queues, of which it serves few, answers these as before, and forgets the others."""
    server, worker = system
    admin, others = server.client(), [keyspace.queue(f"other{number}") for number in range(100)]
    with Celery(broker=server.url) as app, Client(server.url, timeout_s=2) as client:
        _served(client)
        before = len(_consumed(app, worker))
        for name in others:
            app.control.add_consumer(name, destination=[worker.name])
        waiting.until(lambda: admin.exists(*map(keyspace.consumers_key, others)) == len(others))
        _served(client)
        for name in others:
            app.control.cancel_consumer(name, destination=[worker.name])
        waiting.until(lambda: len(_consumed(app, worker)) == before)
        _served(client)
    assert worker.process.poll() is None, worker.log


def _consumed(app, worker):
    return (app.control.inspect([worker.name], timeout=5).active_queues() or {}).get(worker.name, [])
