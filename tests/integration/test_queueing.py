"""What waits in the queue before a worker comes: priorities, deadlines, cancelled requests."""

import time
from typing import cast

import pytest

from mutirao import Client, JobCancelled, JobExpired, keyspace
from support import brokers, sample_models, waiting
from support.redis_servers import RedisServer

ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture(scope="module")
def queued(tmp_path_factory):
    """Jobs that were queued, and some that expired or were cancelled, before their only worker started."""
    from support.worker_process import WorkerProcess

    root = sample_models.repository(tmp_path_factory.mktemp("queued") / "models", "iris").root
    with RedisServer() as server, Client(server.url, check=False) as client:
        jobs = {name: client.submit("iris", [ROW] * 3, priority=name) for name in ("low", "normal", "high")}
        jobs |= {f"{name} 2": client.submit("iris", [ROW], priority=name) for name in ("low", "normal", "high")}
        jobs["expired"] = client.submit("iris", [[1.0] * 4] * 4096, expires_s=0.1)
        jobs["cancelled"] = client.submit("iris", [ROW])
        jobs["cancelled"].cancel()
        waiting.until(lambda: time.time() > cast("float", keyspace.created_at(jobs["expired"].id)) + 0.3)
        with WorkerProcess(server.url, root, concurrency=1):
            yield server, client, jobs


@pytest.mark.skipif(brokers.AMQP, reason="the queue of RabbitMQ is first in, first out")
def test_priority_order(queued):
    """high goes before normal, normal before low; within one priority, first come first served."""
    _, _, jobs = queued
    names = [name for name in jobs if name not in ("expired", "cancelled")]
    for name in names:
        jobs[name].result(20)
    runs = {name: jobs[name].record().job for name in names}
    order = sorted(names, key=lambda name: (runs[name].started_at, runs[name].place))
    assert order == ["high", "high 2", "normal", "normal 2", "low", "low 2"]


def test_worker_drops_expired(queued):
    """A request whose deadline has passed is dropped by the worker that takes it: never run, expired, its payload gone."""
    server, client, jobs = queued
    jobs["low 2"].result(20)  # the last of the queue
    job = client.job(jobs["expired"].id)
    assert job.status == "expired"
    with pytest.raises(JobExpired, match=f"job {job.id} expired before it ran"):
        job.result(5)
    assert job.timings.started_at is None
    waiting.until(lambda: not server.client().exists(keyspace.payload_key(job.id, "in")))


def test_worker_drops_cancelled(queued):
    """A request cancelled while no worker was there is not run when one comes."""
    _, client, jobs = queued
    jobs["low 2"].result(20)
    job = client.job(jobs["cancelled"].id)
    with pytest.raises(JobCancelled):
        job.result(5)
    assert job.timings.started_at is None


def test_deadline_without_a_worker(connect, redis_server):
    """Without any worker, a job ends at its deadline all the same: for who waits, and for who looks later."""
    with connect(redis_server.url, check=False) as client:
        waited, looked_at = client.submit_many("iris", [[ROW] * 3000] * 2, expires_s=0.3)
        with pytest.raises(JobExpired):
            waited.result(20)
        waiting.until(lambda: looked_at.status == "expired")
        assert looked_at.done()
        with pytest.raises(JobExpired):
            client.job(looked_at.id).result(20)
        assert redis_server.client().keys("mutirao:payload:*") == []


def test_deadline_while_it_runs(client):
    """A deadline is for the start: one that passes while the model runs changes nothing."""
    job = client.submit("slow", [[1.2, 0, 0]], expires_s=1.0)
    assert job.result(20)["predict"].tolist() == [1.2]
