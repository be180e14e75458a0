"""Events: each request's own, in order, whatever became of it, and as many as there were requests."""

import time

import numpy as np
import pytest

from mutirao import JobCancelled, JobExpired, ModelFailed, TimeLimitExceeded, WorkerLost, keyspace
from support import sample_models, waiting
from support.event_listener import EventListener
from support.redis_monitor import Monitor
from support.redis_servers import RedisServer
from support.worker_process import Fleet, WorkerProcess

ROW = [5.1, 3.5, 1.4, 0.2]
RECEIVED, STARTED, SUCCEEDED = "task-received", "task-started", "task-succeeded"
FAILED, REVOKED, RETRIED = "task-failed", "task-revoked", "task-retried"
ANSWERED = [RECEIVED, STARTED, SUCCEEDED]


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A worker of one process, so that a slow request has the others wait."""
    root = tmp_path_factory.mktemp("events") / "models"
    sample_models.repository(root, "iris", "forest", "slow", "raises", "aborts", "hangs", time_limit_s=2.0)
    repository = sample_models.repository(root)
    with RedisServer() as server, WorkerProcess(server.url, root) as worker:
        yield Fleet(server, repository, worker)


@pytest.fixture
def heard(busy):
    with EventListener(busy.url) as heard:
        yield heard


@pytest.fixture
def client(busy):
    with busy.client() as client:
        yield client


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_each_request_of_a_long_run(client, heard, count):
    """Each of thousands of requests is received, started and succeeded, once and in this order."""
    iris, forest = sample_models.get("iris").data, sample_models.get("forest").data
    jobs = client.submit_many("iris", np.resize(iris, (count // 2, iris.shape[1])))
    jobs += client.submit_many("forest", np.resize(forest, (count // 2, forest.shape[1])), priority="low")
    heard.wait_ended([job.id for job in jobs], timeout_s=60 + count / 200)
    assert {id: types for job in jobs if (types := heard.types(id := job.id)) != ANSWERED} == {}
    assert heard.counts(job.id for job in jobs) == dict.fromkeys(ANSWERED, count)
    for job in jobs:
        stamps = [(event["timestamp"], event["clock"]) for event in heard.events[job.id]]
        assert stamps == sorted(stamps)
        assert job.done()


def test_failed(client, heard):
    """One that fails in a batch is failed; its neighbours succeeded."""
    jobs = client.submit_many("raises", [[float(-1 if place == 3 else place), 0, 0] for place in range(8)])
    heard.wait_ended(job.id for job in jobs)
    for place, job in enumerate(jobs):
        assert heard.types(job.id) == ([RECEIVED, STARTED, FAILED] if place == 3 else ANSWERED)
    with pytest.raises(ModelFailed):
        jobs[3].result(5)


def test_process_died(client, heard):
    """One whose process dies is retried, and failed once it has been tried three times."""
    job = client.submit("aborts", [[-1.0, 0, 0]])
    with pytest.raises(WorkerLost):
        job.result(30)
    heard.wait_ended([job.id])
    assert heard.types(job.id) == [RECEIVED, *[STARTED, RETRIED] * 2, STARTED, FAILED]


def test_neighbours_of_one_whose_process_died(client, heard):
    """Those that ran beside one whose process died are retried, and succeeded."""
    running = client.submit("slow", [[0.5, 0, 0]])
    jobs = client.submit_many("aborts", [[float(-1 if place == 3 else place), 0, 0] for place in range(8)])
    heard.wait_ended(job.id for job in (running, *jobs))
    assert any(RETRIED in heard.types(job.id) for place, job in enumerate(jobs) if place != 3)
    for place, job in enumerate(jobs):
        received, *tries, ended = heard.types(job.id)
        assert received == RECEIVED
        assert tries == [STARTED, RETRIED] * (len(tries) // 2) + [STARTED]
        assert ended == (FAILED if place == 3 else SUCCEEDED)


def test_time_limit(client, heard):
    """One that ran past its time limit is failed."""
    job = client.submit("hangs", [[-1.0, 0, 0]])
    with pytest.raises(TimeLimitExceeded):
        job.result(30)
    heard.wait_ended([job.id])
    assert heard.types(job.id) == [RECEIVED, STARTED, FAILED]


def test_cancelled(client, heard):
    """Cancelled while it waits, or before its record said that it runs: revoked, once, and never succeeded."""
    running = client.submit("slow", [[1.0, 0, 0]])
    waits = client.submit_many("slow", [[0.0, 0, 0]] * 3)
    waiting.until(lambda: STARTED in heard.types(running.id))
    assert waits[1].cancel()
    in_time = running.cancel()
    heard.wait_ended(job.id for job in (running, *waits))
    assert heard.types(running.id) == [RECEIVED, STARTED, REVOKED if in_time else SUCCEEDED]
    assert heard.types(waits[1].id) == [RECEIVED, REVOKED]
    for job in (waits[0], waits[2]):
        assert heard.types(job.id) == ANSWERED
    for job in (waits[1], *([running] if in_time else [])):
        with pytest.raises(JobCancelled):
            job.result(5)


def test_revoked(busy, client, heard):
    """Revoked through Celery's remote control while it waits: revoked, and its record says so."""
    running = client.submit("slow", [[1.0, 0, 0]])
    waiting.until(lambda: running.status == "running")
    job = client.submit("slow", [[0.0, 0, 0]])
    heard._app.control.revoke(job.id)
    heard.wait_ended([running.id, job.id])
    assert heard.types(job.id) == [RECEIVED, REVOKED]
    assert job.status == "cancelled"
    assert heard.types(running.id) == ANSWERED


def test_expired(client, heard):
    """One whose deadline passed before it could run: revoked as expired."""
    running = client.submit("slow", [[1.0, 0, 0]])
    waiting.until(lambda: running.status == "running")
    job = client.submit("slow", [[0.0, 0, 0]], expires_s=0.3)
    heard.wait_ended([running.id, job.id])
    assert heard.types(job.id) == [RECEIVED, REVOKED]
    assert heard.events[job.id][-1]["expired"] is True
    with pytest.raises(JobExpired):
        job.result(5)


def test_running_is_shown_to_those_who_poll(busy, client):
    """A record says running once its request has run for a quarter of a second; a quick one's never does."""
    with Monitor(busy.url) as monitor:
        slow = client.submit("slow", [[1.5, 0, 0]])
        waiting.until(lambda: slow.status in {"running", "succeeded"})
        assert slow.result(20)["predict"].tolist() == [1.5]
        assert client.predict("slow", [[0.05, 1, 0]], timeout=20)["predict"].tolist() == [1.05]
        assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
        time.sleep(0.4)  # what would be written would be written by now
    digest = _digest("mark_started")
    assert sum(digest in command for _, command in monitor.commands) == 1


def _digest(script):
    """The name by which Redis knows a script, as MONITOR shows it here: in capitals."""
    from mutirao.redisdb.scripts import DIGESTS

    return DIGESTS[script].upper()


def test_no_queue_is_left(busy, client):
    """After requests of all kinds and priorities nothing waits and nothing is reserved."""
    redis, jobs = busy.server.client(), [client.submit("raises", [[-1.0, 0, 0]])]
    for priority in ("high", "normal", "low"):
        jobs += client.submit_many("iris", [ROW] * 50, priority=priority)
    assert len(list(client.as_completed(jobs, timeout=30))) == 151
    assert not [key for name in busy.repository.names() for key in redis.keys(keyspace.queue(name) + "*")]
    assert not redis.keys(keyspace.reserved_key("*"))
