"""Work spreads over the fleet: no process is idle while another has a pile of what it could serve."""

import contextlib
from collections import Counter

import numpy as np
import pytest

from mutirao import Client
from support import brokers, execution_log, sample_models, waiting
from support.execution_log import ExecutionLog
from support.recorded_models import FIRST
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

WORKERS, PROCESSES = 4, 2


@pytest.fixture(scope="module")
def fleet_of_four(tmp_path_factory):
    """Four workers of two processes each, one model of a second a row and one of 50 ms, and the ledger of who ran what."""
    root = execution_log.repository(tmp_path_factory.mktemp("spread") / "models", {"second": 1.0, "fiftieth": 0.05})
    with contextlib.ExitStack() as stack:
        book = stack.enter_context(ExecutionLog())
        server = stack.enter_context(RedisServer())
        fleet = [
            WorkerProcess(server.url, root, concurrency=PROCESSES, env=book.env, wait=False) for _ in range(WORKERS)
        ]
        for worker in fleet:
            stack.enter_context(worker)
        for worker in fleet:
            worker.wait_ready()
        client = stack.enter_context(Client(server.url))
        yield book, client


def _rows(first, count):
    return np.array([[0.0, first + place, 1.0] for place in range(count)])


@pytest.mark.skipif(brokers.AMQP, reason="RabbitMQ deals messages out in turn, whoever has a free process")
def test_as_many_requests_as_processes(fleet_of_four):
    """Eight requests of a second each on four workers of two processes: each process runs one of them, all at the same time."""
    book, client = fleet_of_four
    jobs = client.submit_many("second", _rows(FIRST, 8))
    for job in jobs:
        job.result(30)
    runs = [run for row in range(FIRST, FIRST + 8) for run in book.by_row()[row]]
    assert sorted(Counter(run.pid for run in runs).values()) == [1] * 8
    assert max(run.at for run in runs) - min(run.at for run in runs) < 1.0


def test_burst_uses_every_process(fleet_of_four):
    """A burst of 64 rows of a model that takes 50 ms a row is shared by all eight processes, none of which has half of it."""
    book, client = fleet_of_four
    known = [(FIRST + 40, 16), (FIRST + 60, 16)]  # so that every worker has timed it
    for first, count in (*known, (FIRST + 100, 64)):
        jobs = client.submit_many("fiftieth", _rows(first, count))
        for job in jobs:
            job.result(30)
    runs = [run for row in range(FIRST + 100, FIRST + 164) for run in book.by_row()[row]]
    shares = Counter(run.pid for run in runs)
    assert len(runs) == 64
    assert len(shares) == WORKERS * PROCESSES, shares
    assert max(shares.values()) < 32, shares


@brokers.redis_only
def test_what_waits_behind_a_long_run_is_run_elsewhere(redis_server, tmp_path):
    """What two busy workers have taken ahead is all run by the one that is free first, while the other is busy still."""
    root = sample_models.repository(tmp_path / "models", "slow").root
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(WorkerProcess(redis_server.url, root))
        client = stack.enter_context(Client(redis_server.url))

        def running(*seconds):
            jobs = [client.submit("slow", [[each, 0.0, 0.0]]) for each in seconds]
            waiting.until(lambda: all(job.status == "running" for job in jobs))
            return jobs

        def served_by():
            jobs = client.submit_many("slow", np.zeros((8, 3)))
            return {job.record().job.worker for job in jobs if job.result(30)}

        waiting.until(lambda: len(served_by()) == 2)  # both know how short it is, as a rule
        longest, _ = running(6.0, 1.0)
        quick = client.submit_many("slow", np.zeros((40, 3)))
        for job in quick:
            job.result(30)
        assert longest.status == "running"
