"""Stops: what runs is finished or given back, what only waits goes back at once, and nothing is lost or counted against anybody."""

import contextlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from celery import Celery

from mutirao import Client, keyspace
from support import bad_models, execution_log, recorded_models, sample_models, waiting
from support.end_announcements import EndAnnouncements
from support.execution_log import ExecutionLog
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

QUEUE = keyspace.queue_key("slow", 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return sample_models.repository(tmp_path_factory.mktemp("shutdown") / "models", "iris", "slow").root


@pytest.fixture
def client(redis_server):
    with Client(redis_server.url) as client:
        yield client


def _held(redis):
    return sum(map(redis.hlen, redis.keys(keyspace.reserved_key("*"))))


def _computed(worker):
    return sum(psutil.Process(worker.pid).cpu_times()[:2])


def _sleeps_in(pid):
    """Say in what part of the kernel a process waits."""
    return Path(f"/proc/{pid}/wchan").read_text()


def _given_back(worker, redis, job):
    """Wait until the worker has ended; what it ran is in its queue again."""
    worker.wait_ended(10)
    assert _held(redis) == 0
    assert job.status == "queued"
    job.cancel()


def _busy(client, redis, seconds):
    """Have the worker run a request, and hold three more."""
    client.predict("slow", [[0.0, 0, 0]], timeout=30)  # its times are known, so that some are taken ahead
    running = client.submit("slow", [[seconds, 0, 0]])
    waiting.until(lambda: running.status == "running")
    waits = client.submit_many("slow", [[0.0, place, 0] for place in range(3)])
    waiting.until(lambda: _held(redis) == 4)
    return running, waits


@contextlib.contextmanager
def _halfway(client, redis, worker):
    """Halt the worker where Redis has just reserved one more request for it, and it has not read of it yet."""
    os.kill(worker.pid, signal.SIGSTOP)
    job = client.submit("slow", [[3.0, 0, 0]])
    (key,) = redis.keys(keyspace.reserved_key("*"))
    redis.hset(key, f"999999999 {QUEUE}", redis.rpop(QUEUE))
    yield job
    os.kill(worker.pid, signal.SIGCONT)


def test_sigterm(redis_server, root, client):
    """SIGTERM: what was only reserved is back in its queue, in order, while the running one still runs; that one is kept, and the end is 0."""
    redis = redis_server.client()
    with WorkerProcess(redis_server.url, root) as worker:
        running, waits = _busy(client, redis, 6.0)
        with _halfway(client, redis, worker) as unheard:
            worker.stop(wait=False)
        waits.append(unheard)
        waiting.until(lambda: redis.llen(QUEUE) == 4, timeout_s=5)
        assert running.status == "running"
        line = redis.lrange(QUEUE, 0, -1)
        assert [job.id.encode() in line[-1 - place] for place, job in enumerate(waits)] == [True] * 4
        assert running.result(20)["predict"].tolist() == [6.0]
        assert worker.wait_ended(10) == 0
        assert running.record().job.attempts == 1
        assert _held(redis) == 0
        assert not redis.zcard(keyspace.LEASES)
        with WorkerProcess(redis_server.url, root):
            for place, job in enumerate(waits):
                assert job.result(20)["predict"].tolist() == [place]
                assert job.record().job.attempts == 1


def test_sigterm_past_its_grace(redis_server, root, client):
    """A request that runs past the grace period is given back, the worker exits, and another answers it."""
    redis = redis_server.client()
    with WorkerProcess(redis_server.url, root, env={"MUTIRAO_GRACE_S": "1"}) as worker:
        running = client.submit("slow", [[8.0, 0, 0]])
        waiting.until(lambda: running.status == "running")
        began = time.monotonic()
        worker.stop(wait=False)
        worker.wait_ended(10)
        assert time.monotonic() - began < 6
        assert redis.llen(QUEUE) == 1
        assert running.status == "queued"
    with WorkerProcess(redis_server.url, root, concurrency=2):
        assert running.result(30)["predict"].tolist() == [8.0]
        assert running.record().job.attempts == 1


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_sigterm_without_processes(redis_server, root, client, pool):
    """In threads, and in the worker's own process, a stop lets what runs finish, and keeps it."""
    redis = redis_server.client()
    with WorkerProcess(redis_server.url, root, args=["--pool", pool]) as worker:
        running = client.submit("slow", [[2.0, 0, 0]])
        # On solo no status says so.
        waiting.until(lambda: running.status == "running" or "nanosleep" in _sleeps_in(worker.pid))
        worker.stop(wait=False)
        assert running.result(20)["predict"].tolist() == [2.0]
        assert worker.wait_ended(10) == 0
        assert _held(redis) == 0


def test_sigquit(redis_server, root, client):
    """SIGQUIT: everything is back in its queue at once, the running one first, and nothing counts as an attempt."""
    redis = redis_server.client()
    with WorkerProcess(redis_server.url, root) as worker:
        running, waits = _busy(client, redis, 20.0)
        began = time.monotonic()
        with _halfway(client, redis, worker) as unheard:
            worker.process.send_signal(signal.SIGQUIT)
        waits.append(unheard)
        worker.wait_ended(10)
        assert time.monotonic() - began < 6
        line = redis.lrange(QUEUE, 0, -1)
        assert len(line) == 5
        assert running.id.encode() in line[-1]
        assert b'"attempts"' not in b"".join(line)
        assert _held(redis) == 0
        assert running.status == "queued"
        assert "given back" in str(running.record().job.history)
        running.cancel()
        with WorkerProcess(redis_server.url, root):
            for place, job in enumerate(waits):
                assert job.result(20)["predict"].tolist() == [place]


def test_sigquit_while_a_batch_is_written(redis_server, root, client):
    """SIGQUIT where a process has got half of its batch, and will never get the rest: it is given back, and nobody waits for it."""
    with WorkerProcess(redis_server.url, root) as worker, Celery(broker=redis_server.url) as stock:
        (process,) = worker.children
        process.suspend()
        job = client.submit("slow", np.zeros((10_000, 3)))  # more than a pipe takes
        waiting.until(lambda: job.status == "running")
        with worker.still():
            for _ in range(100):
                stock.control.broadcast("report", destination=[worker.name])
        idle = _computed(worker)
        waiting.until(lambda: _computed(worker) > idle + 0.1)
        worker.process.send_signal(signal.SIGQUIT)  # while the worker is at something: it goes on with that afterwards
        _given_back(worker, redis_server.client(), job)


def test_sigquit_while_a_result_is_written(redis_server, root, client):
    """SIGQUIT where a process has written half of its result, and nobody reads the rest: it is given back, and nobody waits for it."""
    with WorkerProcess(redis_server.url, root) as worker:
        (process,) = worker.children
        rows = np.zeros((10_000, 3))
        rows[0, 0] = 0.5
        job = client.submit("slow", rows)
        waiting.until(lambda: job.status == "running")
        with worker.still():
            waiting.until(lambda: "pipe_write" in _sleeps_in(process.pid))
            worker.process.send_signal(signal.SIGQUIT)
        _given_back(worker, redis_server.client(), job)


def test_sigquit_while_native_code_runs(redis_server, tmp_path, client):
    """SIGQUIT where a process is in code that hears of no signal: it is killed, and its batch is given back."""
    root = sample_models.repository(tmp_path / "models", "hangsinc").root
    with WorkerProcess(redis_server.url, root) as worker:
        job = client.submit("hangsinc", [[bad_models.MARKER, 0, 0]])
        waiting.until(lambda: job.status == "running")
        worker.process.send_signal(signal.SIGQUIT)
        _given_back(worker, redis_server.client(), job)


def test_rolling_restart(redis_server, tmp_path, client):
    """Three workers replaced one by one under load: each request is answered, and each of a quick model is computed once."""
    root = execution_log.repository(tmp_path / "models", {"quick": 0.001})
    with contextlib.ExitStack() as stack:
        book = stack.enter_context(ExecutionLog())
        commits = stack.enter_context(EndAnnouncements(redis_server.url))
        fleet = [WorkerProcess(redis_server.url, root, env=book.env, wait=False) for _ in range(3)]
        for worker in fleet:
            stack.callback(worker.close)
        for worker in fleet:
            worker.wait_ready()
        jobs, number = [], recorded_models.FIRST
        for place in range(3):
            new = WorkerProcess(redis_server.url, root, env=book.env, wait=False)
            stack.callback(new.close)
            fleet[place].stop(wait=False)
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                jobs += client.submit_many("quick", np.array([[0.0, number + each, 1.0] for each in range(20)]))
                number += 20
                time.sleep(0.05)  # the load's own rhythm
            assert fleet[place].wait_ended(20) == 0
            new.wait_ready()
        for place, job in enumerate(jobs):
            assert job.result(30)["predict"].tolist() == [3.0 * (recorded_models.FIRST + place) + 1.0]
        assert {row: len(runs) for row, runs in book.by_row().items() if len(runs) != 1} == {}
        assert len(book.by_row()) == len(jobs)
        assert not commits.doubles()


def test_stopped_for_longer_than_its_lease(redis_server, tmp_path, client):
    """A worker whose main process hangs past its lease loses what it held to another; when it goes on, nothing is double."""
    root = execution_log.repository(tmp_path / "models", {"dear": 0.5})
    lease = {"MUTIRAO_LEASE_S": "2"}
    with (
        ExecutionLog() as book,
        EndAnnouncements(redis_server.url) as commits,
        WorkerProcess(redis_server.url, root, env=book.env | lease) as worker,
    ):
        jobs = client.submit_many("dear", np.array([[0.0, recorded_models.FIRST + place, 1.0] for place in range(4)]))
        waiting.until(lambda: len(book.executions()) >= 1)
        os.kill(worker.pid, signal.SIGSTOP)
        with WorkerProcess(redis_server.url, root, env=book.env | lease) as other:
            for place, job in enumerate(jobs):
                assert job.result(30)["predict"].tolist() == [3.0 * (recorded_models.FIRST + place) + 1.0]
            assert {job.record().job.worker for job in jobs[-1:]} == {other.name}
            records = [redis_server.client().get(keyspace.record_key(job.id)) for job in jobs]
            os.kill(worker.pid, signal.SIGCONT)
            worker.wait_logged("lease had lapsed")
            assert client.predict("dear", [[0.0, 1.0, 2.0]], timeout=20)["predict"].tolist() == [5.0]
            waiting.until(lambda: _held(redis_server.client()) == 0)
            assert [redis_server.client().get(keyspace.record_key(job.id)) for job in jobs] == records
            commits.settle()
            assert not commits.doubles()


def test_stopped_for_longer_than_its_lease_while_nobody_looks(redis_server, tmp_path, client):
    """A worker that hangs past its lease while no other is there goes on with what it held, each row once."""
    root = execution_log.repository(tmp_path / "models", {"dear": 0.5})
    redis = redis_server.client()
    with (
        ExecutionLog() as book,
        WorkerProcess(redis_server.url, root, env=book.env | {"MUTIRAO_LEASE_S": "2"}) as worker,
    ):
        client.predict("dear", [[0.0, 1.0, 2.0]], timeout=20)  # its times are known, so that some are taken ahead
        jobs = client.submit_many("dear", np.array([[0.0, recorded_models.FIRST + place, 1.0] for place in range(4)]))
        waiting.until(lambda: len(book.executions()) >= 1 and _held(redis) >= 2)
        os.kill(worker.pid, signal.SIGSTOP)
        (lease,) = redis.zrange(keyspace.LEASES, 0, -1, withscores=True)
        waiting.until(lambda: redis.time()[0] > lease[1] + 1)
        os.kill(worker.pid, signal.SIGCONT)
        for place, job in enumerate(jobs):
            assert job.result(20)["predict"].tolist() == [3.0 * (recorded_models.FIRST + place) + 1.0]
        assert {row: len(runs) for row, runs in book.by_row().items() if len(runs) != 1} == {}
        waiting.until(lambda: _held(redis) == 0)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGQUIT"])
def test_a_stop_does_not_wait_for_a_process_that_stands_still(redis_server, root, how):
    """A stop ends soon after its grace, though an idle process is suspended and would never read that it is to end; Redis may be away."""
    with (
        RedisServer() as server,
        WorkerProcess(server.url, root, concurrency=2, env={"MUTIRAO_GRACE_S": "1"}) as worker,
    ):
        worker.children[0].suspend()
        worker.children[1].suspend()
        if how == "SIGQUIT":
            server.stop()
            worker.wait_logged("is away")
        worker.process.send_signal(getattr(signal, how))
        worker.wait_ended(20)


@pytest.mark.parametrize("what", [0, 4], ids=["noise", "half a message"])
def test_a_stop_ends_whatever_a_model_has_written(redis_server, tmp_path, client, what):
    """A stop ends soon after its grace, though a model has spoilt its pipe to the parent: what it ran is given back or has ended."""
    root = sample_models.repository(tmp_path / "models", "scribbles").root
    with WorkerProcess(redis_server.url, root, env={"MUTIRAO_GRACE_S": "1"}) as worker:
        with worker.still():
            job = client.submit("scribbles", [[-1.0, what, 0]])
            worker.stop(wait=False)
        worker.wait_ended(20)
    assert job.status in ("queued", "failed")
    assert _held(redis_server.client()) == 0
    job.cancel()
