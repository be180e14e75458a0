"""Processes of a pool that stall or are spoilt while they are idle: they are replaced, and what was meant for them runs elsewhere."""

import numpy as np
import pytest
import samples
import waiting
from servers import RedisServer
from workers import Fleet, WorkerProcess

from mutirao import TimeLimitExceeded


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A worker of one process."""
    folder = tmp_path_factory.mktemp("lone")
    names = ("slow", "stallslater", "tellsprocess")
    repository = samples.repository(folder / "models", *names, time_limit_s=5.0)
    env = {"STALLED": str(folder / "stalled")}
    with RedisServer() as server, WorkerProcess(server.url, repository.root, env=env) as worker:
        yield Fleet(server, repository, worker)


@pytest.mark.parametrize("rows", [1, 10_000])
def test_a_process_that_stands_still_is_replaced(lone, rows):
    """A batch, small or of several pipes' size, for an idle process that stands still (SIGSTOP) is answered by another, as its first run."""
    with lone.client() as client:
        first = _process(client)
        (child,) = lone.worker.children
        assert child.pid == first
        child.suspend()
        job = client.submit("tellsprocess", np.zeros((rows, 3)))
        assert set(job.result(30)["predict"].tolist()) != {first}
        assert job.record().job.attempts == 1


def test_a_process_that_stalls_while_it_is_idle_is_replaced(lone):
    """A model that stalls its process a moment after its answer, in native code, costs the next request no run, and limits hold."""
    with lone.client() as client:
        assert client.predict("stallslater", [[-1.0, 0, 0]], timeout=30)["predict"].tolist() == [-1.0]
        waiting.until((lone.repository.root.parent / "stalled").exists)
        job = client.submit("tellsprocess", [[0.0, 0, 0]])
        late = client.submit("slow", [[60.0, 0, 0]])
        assert job.result(30)["predict"].shape == (1,)
        with pytest.raises(TimeLimitExceeded):
            late.result(30)
        assert job.record().job.attempts == 1


def _process(client):
    return int(client.predict("tellsprocess", [[0.0, 0, 0]], timeout=30)["predict"][0])
