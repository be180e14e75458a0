"""The pools that have no processes: the same answers, the same events, time limits by the parent, and a lease that lasts."""

import contextlib
import time

import pytest

from mutirao import Client, ModelFailed, TimeLimitExceeded, keyspace
from support import brokers, sample_models, waiting
from support.event_listener import EventListener
from support.redis_servers import RedisServer
from support.worker_process import Fleet, WorkerProcess

ROW = [5.1, 3.5, 1.4, 0.2]
RECEIVED, STARTED, SUCCEEDED = "task-received", "task-started", "task-succeeded"


@contextlib.contextmanager
def _fleet(folder, name):
    """A worker of that pool whose slow requests have a second."""
    root = folder / "models"
    sample_models.repository(root, "iris", "raises")
    repository = sample_models.repository(root, "slow", time_limit_s=1.0)
    with (
        RedisServer() as server,
        WorkerProcess(server.url, root, args=["--pool", name], concurrency=2) as worker,
    ):
        yield Fleet(server, repository, worker)


@pytest.fixture(scope="module")
def threads(tmp_path_factory):
    with _fleet(tmp_path_factory.mktemp("threads"), "threads") as fleet:
        yield fleet


@pytest.fixture(scope="module")
def solo(tmp_path_factory):
    with _fleet(tmp_path_factory.mktemp("solo"), "solo") as fleet:
        yield fleet


@pytest.mark.parametrize("name", ["solo", "threads"])
def test_answers_and_events(name, request):
    """Every request is answered, and received, started and succeeded in this order; the failed one is failed."""
    sample, fleet = sample_models.get("iris"), request.getfixturevalue(name)
    with EventListener(fleet.url) as heard, fleet.client() as client:
        jobs = client.submit_many("iris", [*sample.data] * 4)
        bad = client.submit("raises", [[-1.0, 0, 0]])
        answers = [int(job.result(30)["predict"][0]) for job in jobs]
        assert answers == [*sample.expected()] * 4
        with pytest.raises(ModelFailed):
            bad.result(20)
        heard.wait_ended([*(job.id for job in jobs), bad.id])
        assert {tuple(heard.types(job.id)) for job in jobs} == {(RECEIVED, STARTED, SUCCEEDED)}
        assert heard.types(bad.id) == [RECEIVED, STARTED, "task-failed"]


def test_time_limit_of_threads(threads):
    """A thread cannot be ended: the parent ends its request when the time is up, and the others go on meanwhile."""
    with EventListener(threads.url) as heard, threads.client() as client:
        late, began = client.submit("slow", [[6.0, 0, 0]]), time.monotonic()
        with pytest.raises(TimeLimitExceeded):
            late.result(20)
        assert time.monotonic() - began < 5
        assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
        record = threads.server.client().get(keyspace.record_key(late.id))
        heard.wait_ended([late.id])
        time.sleep(max(0.0, 4.5 - (time.monotonic() - began)))  # the thread's own end
        assert client.predict("slow", [[0.0, 1, 0]], timeout=20)["predict"].tolist() == [1.0]
        assert threads.server.client().get(keyspace.record_key(late.id)) == record
        assert heard.types(late.id) == [RECEIVED, STARTED, "task-failed"]


def test_a_hanging_thread_keeps_its_slot(threads):
    """While threads run past their limit, what comes is not counted as running in them: it waits, and is answered after."""
    with threads.client() as client:
        late = [client.submit("slow", [[3.0, 0, 0]]) for _ in range(2)]
        for job in late:
            with pytest.raises(TimeLimitExceeded):
                job.result(20)
        assert client.predict("slow", [[0.2, 1, 0]], timeout=20)["predict"].tolist() == [1.2]


@brokers.redis_only
@pytest.mark.parametrize("name", ["solo", "threads", "prefork"])
def test_lease_lasts_while_it_predicts(redis_server, tmp_path, name):
    """A prediction that takes longer than the lease is not taken away: it runs once, though others look for lapsed leases."""
    root = sample_models.repository(tmp_path / "models", "iris", "slow").root
    env = {"MUTIRAO_LEASE_S": "2"}
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(WorkerProcess(redis_server.url, root, args=["--pool", name], env=env))
        client = stack.enter_context(Client(redis_server.url))
        job = client.submit("slow", [[7.0, 0, 0]])
        waiting.until(lambda: redis_server.client().keys(keyspace.reserved_key("*")))
        other = stack.enter_context(WorkerProcess(redis_server.url, root, env=env))
        assert job.result(30)["predict"].tolist() == [7.0]
        record = job.record().job
        assert (record.worker, record.attempts, record.history) == (worker.name, 1, ())
        assert "adopted" not in other.log
        assert "lapsed" not in worker.log
