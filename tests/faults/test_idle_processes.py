"""Processes of a pool that stall or are spoilt while they are idle: they are replaced, and what was meant for them runs elsewhere."""

import collections
from pathlib import Path

import numpy as np
import psutil
import pytest

from mutirao import Client, TimeLimitExceeded, WorkerLost
from support import sample_models, waiting
from support.redis_servers import RedisServer
from support.worker_process import Fleet, WorkerProcess


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A worker of one process."""
    folder = tmp_path_factory.mktemp("lone")
    names = ("changesprocess", "forges", "leavesbehind", "scribbles", "slow", "stallslater", "tellsprocess")
    repository = sample_models.repository(folder / "models", *names, time_limit_s=5.0)
    with RedisServer() as server, WorkerProcess(server.url, repository.root) as worker:
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
    """A model whose thread stalls its process a moment after its answer, in native code, costs the next no run; limits hold."""
    with lone.client() as client:
        assert client.predict("stallslater", [[-1.0, 0, 0]], timeout=30)["predict"].tolist() == [-1.0]
        job = client.submit("tellsprocess", [[0.0, 0, 0]])
        late = client.submit("slow", [[60.0, 0, 0]])
        assert job.result(30)["predict"].shape == (1,)
        with pytest.raises(TimeLimitExceeded):
            late.result(30)
        assert job.record().job.attempts == 1


@pytest.mark.parametrize("what", [0, 1, 2, 3, 5], ids=["ones", "2 GiB", "no pickle", "nothing", "noise"])
def test_what_a_model_writes_to_stray_descriptors_costs_its_process_alone(lone, what):
    """A process that writes anything but messages to its parent is killed, and its request given up at last; all others are answered."""
    with lone.client() as client:
        before = client.submit("tellsprocess", [[0.0, 0, 0]])
        job = client.submit("scribbles", [[-1.0, what, 0]])
        after = client.submit_many("tellsprocess", [[0.0, number, 0] for number in range(10)])
        with pytest.raises(WorkerLost):
            job.result(30)
        assert [each.result(30)["predict"].shape for each in (before, *after)] == [(1,)] * 11
        assert job.record().job.attempts == 3


@pytest.mark.parametrize("what", [0.0, 1.0], ids=["text", "none"])
def test_an_end_that_a_model_has_forged_leaves_no_batch_without_one(lone, what):
    """A message that says of a batch that it has come back, with what is no answer, costs its process; its request is given up at last."""
    with lone.client() as client:
        job = client.submit("forges", [[-1.0, what, 0]])
        after = client.submit("tellsprocess", [[0.0, 0, 0]])
        with pytest.raises(WorkerLost, match=r"not an answer; job .*: gave up after 3 attempts"):
            job.result(30)
        assert after.result(30)["predict"].shape == (1,)


def test_half_a_message_is_no_worse_than_a_prediction_that_hangs(lone):
    """A process that only begins what might be a message is given its time limit, and replaced; others are answered."""
    with lone.client() as client:
        job = client.submit("scribbles", [[-1.0, 4, 0]])
        after = client.submit("tellsprocess", [[0.0, 0, 0]])
        with pytest.raises(TimeLimitExceeded):
            job.result(30)
        assert after.result(30)["predict"].shape == (1,)


def test_what_a_model_changes_of_its_process_is_put_back(lone):
    """A model that changes everything that its process has one of finds it unchanged the next time, in the same process."""
    with lone.client() as client:
        found = [
            client.predict("changesprocess", [[mark, 0, 0]], timeout=30)["predict"][0].tolist()
            for mark in (0.0, -1.0, 0.0, -1.0, 0.0)
        ]
        assert len({tuple(each) for each in found}) == 1
        assert client.predict("tellsprocess", [[0.0, 0, 0]], timeout=30)["predict"].tolist() == [found[0][2]]


@pytest.mark.parametrize("what", [0.0, 1.0], ids=["descriptor", "thread"])
def test_a_process_in_which_something_is_left_behind_is_replaced(lone, what):
    """A process in which a model has left a file open, or a thread running, has answered, and serves nobody any more."""
    with lone.client() as client:
        spoilt = int(client.predict("leavesbehind", [[-1.0, what, 0]], timeout=30)["predict"][0])
        assert _process(client) != spoilt
        waiting.until(lambda: spoilt not in {child.pid for child in lone.worker.children})
        assert _process(client) == _process(client)


def test_processes_are_replaced_after_so_many_batches_and_by_their_size(tmp_path, redis_server):
    """Replacing processes after three batches each, and when they have grown, loses nothing and counts no attempt."""
    root = sample_models.repository(tmp_path / "models", "grows", "tellsprocess").root
    args = ["--max-batches-per-process", "3", "--max-memory-per-process", "600000000"]
    with (
        WorkerProcess(redis_server.url, root, args=args, concurrency=2) as worker,
        Client(redis_server.url) as client,
    ):
        batches = collections.Counter(_process(client) for _ in range(12))
        assert max(batches.values()) == 3
        large = 0
        while batches[large] in (0, 3):  # a process is replaced for its third batch, however large it is
            large = int(client.predict("grows", [[700.0, 0, 0]], timeout=30)["predict"][0])
            batches[large] += 1
            waiting.until(lambda: large not in {child.pid for child in worker.children}, what=lambda: worker.log)  # noqa: B023 - it is called at once
        assert "over the 600,000,000 allowed" in worker.log
        jobs = [client.submit("tellsprocess", [[0.0, number, 0]]) for number in range(40)]
        jobs += client.submit_many("tellsprocess", [[0.0, number, 0] for number in range(200)])
        assert all(job.result(60)["predict"].shape == (1,) for job in jobs)
        assert {job.record().job.attempts for job in jobs} == {1}


def test_a_process_has_none_of_its_parents_connections(lone):
    """A process that was forked while the worker was connected holds none of its connections, and two pipes and a sentinel."""
    with lone.client() as client:
        first = _process(client)
        psutil.Process(first).kill()
        waiting.until(lambda: first not in {child.pid for child in lone.worker.children})
        folder = Path(f"/proc/{_process(client)}/fd")
        kinds = [str(each.readlink()).partition(":")[0] for each in folder.iterdir()]
        assert "socket" not in kinds
        assert "anon_inode" not in kinds
        assert kinds.count("pipe") <= 3 + kinds.count("stdin")


def _process(client):
    return int(client.predict("tellsprocess", [[0.0, 0, 0]], timeout=30)["predict"][0])
