"""Flower's counts are the ledger's: of a long run each request is received, started and succeeded once."""

import re
from collections import Counter

import numpy as np
import pytest

from acceptance.test_flower import PASSWORD, USER, Flower
from mutirao import Client
from support import execution_log, waiting
from support.execution_log import ExecutionLog
from support.recorded_models import FIRST
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

COUNTER = re.compile(r'flower_events_total\{task="mutirao.predict",type="(task-[a-z]+)",worker="[^"]*"\} ([\d.]+)')


def _counts(flower):
    found: Counter[str] = Counter()
    for kind, count in COUNTER.findall(flower.ask("/metrics", auth=None)):
        found[kind] += int(float(count))
    return found


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_counts_of_a_long_run(tmp_path, count):
    """Two workers under load, Flower beside: it counts as many of each event as there were requests, and none is missing or double."""
    root = execution_log.repository(tmp_path / "models", {"quick": 0.0001})
    with (
        ExecutionLog() as book,
        RedisServer() as server,
        WorkerProcess(server.url, root, env=book.env) as first,
        WorkerProcess(server.url, root, env=book.env) as second,
        Flower(server.url, tmp_path, FLOWER_BASIC_AUTH=f"{USER}:{PASSWORD}") as flower,
        Client(server.url) as client,
    ):
        waiting.until(
            lambda: {first.name, second.name} <= set(re.findall(r"w\d+-\d+@[\w.-]+", flower.ask("/api/workers")))
        )
        before = _counts(flower)
        jobs = client.submit_many("quick", np.array([[0.0, FIRST + place, 1.0] for place in range(count)]))
        for job in jobs:
            job.result(60)
        expected = dict.fromkeys(["task-received", "task-started", "task-succeeded"], count)
        waiting.until(lambda: _counts(flower)["task-succeeded"] >= before["task-succeeded"] + count, timeout_s=60)
        assert _counts(flower) - before == expected
        assert Counter(len(runs) for runs in book.by_row().values()) == {1: count}
