"""Results that Redis cannot hold: the one request fails with its reason; neighbours, later batches and the worker go on."""

import numpy as np
import pytest

from mutirao import Client, ResultRefused
from support import sample_models, waiting
from support.redis_servers import RedisServer
from support.tcp_proxy import TcpProxy
from support.worker_process import Fleet, WorkerProcess

WIDE = 400_000  # columns, thus 3.2 MB


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A Redis whose limits a test may lower, and a worker whose "pads" gives as wide an output as its input says."""
    repository = sample_models.repository(tmp_path_factory.mktemp("small") / "models", "pads", "raises")
    with RedisServer() as server, WorkerProcess(server.url, repository.root) as worker:
        yield Fleet(server, repository, worker)


@pytest.fixture
def limited(small):
    """Set an option of that Redis for one test."""
    with small.server.client() as redis:
        before = {}

        def limit(option, value):
            before[option] = redis.config_get(option)[option]
            redis.config_set(option, value)

        yield limit
        for option, value in before.items():
            redis.config_set(option, value)
        redis.delete("", *redis.keys("mutirao:payload:*"))


def _served(small, says, *, wide=1):
    """Ask for results that cannot be kept among others of one batch; all others are answered, and so is the next batch."""
    with Client(small.url, expires_s=30) as client:
        with small.worker.still():
            jobs = [client.submit("pads", [[size, 0.0, 0.0]]) for size in (3, *[WIDE] * wide, 5)]
        first, *refused, last = jobs
        later = client.submit("raises", [[1.0, 2.0, 3.0]])
        assert later.result(15)["predict"].tolist() == [6.0]
        assert (first.result(15)["predict"].shape, last.result(15)["predict"].shape) == ((1, 3), (1, 5))
        for job in refused:
            with pytest.raises(ResultRefused, match=says):
                job.result(15)
            assert job.status == "failed"
        with small.server.client() as redis:  # what a large command came in takes its place for a moment
            waiting.until(
                lambda: (said := redis.info("memory"))["used_memory"] < (said["maxmemory"] or 1e18) - 1_000_000
            )
        assert client.predict("pads", [[2.0, 0.0, 0.0]], timeout=15)["predict"].shape == (1, 2)
    with small.server.client() as redis:
        waiting.until(lambda: not redis.keys("mutirao:reserved:*"), what=lambda: small.worker.log)


@pytest.mark.parametrize("wide", [1, 3])
def test_a_result_at_which_redis_hangs_up(small, limited, wide):
    """A result for which Redis cuts the connection is not sent for ever: its request fails by name, and no other."""
    limited("proto-max-bulk-len", "1mb")
    _served(small, r"result has 3,2\d\d,\d\d\d bytes, and Redis", wide=wide)


def test_a_result_larger_than_the_room_that_maxmemory_leaves(small, limited):
    """A result for which Redis has no room under its maxmemory fails by name; the failure fits, and so do others."""
    with small.server.client() as redis:
        used = redis.info("memory")["used_memory"]
    limited("maxmemory", str(used + 3_000_000))
    _served(small, "maxmemory")


def test_a_large_result_over_a_slow_link_is_kept(small):
    """A result that takes longer to send than a single answer of Redis may take is no reason to give it up: something arrives all the time."""
    root = small.repository.root
    with (
        RedisServer() as server,
        TcpProxy(server.port) as link,
        WorkerProcess(link.url, root, env={"MUTIRAO_TIMEOUT_S": "2"}) as worker,
        Client(server.url) as client,
    ):
        link.delay()  # to 1.3 MB a second at most
        job = client.submit("pads", [[2 * WIDE, 0.0, 0.0]])
        assert job.result(60)["predict"].shape == (1, 2 * WIDE), worker.log
        link.heal()


def test_the_lease_is_kept_while_a_large_result_is_sent(small):
    """A result whose sending takes several leases, over a slow link, is no reason for others to take what its worker holds."""
    root, env = small.repository.root, {"MUTIRAO_LEASE_S": "2"}
    with (
        RedisServer() as server,
        TcpProxy(server.port) as link,
        WorkerProcess(link.url, root, env=env) as slow,
        Client(server.url) as client,
    ):
        link.delay()
        job = client.submit("pads", [[4 * WIDE, 0.0, 0.0]])
        with WorkerProcess(server.url, root, env=env) as other:  # it looks for lapsed leases all the time
            assert job.result(60)["predict"].shape == (1, 4 * WIDE), slow.log
            assert "adopted" not in other.log
        assert job.record().job.worker == slow.name
        link.heal()


@pytest.mark.parametrize("large", ["input", "result"])
def test_others_go_on_while_what_is_large_is_on_a_slow_link(tmp_path, large):
    """While a result, or a request's input, takes seconds over a slow link, the worker's other slot serves what needs none."""
    root = sample_models.repository(tmp_path / "models", "pads", "raises", max_rows=1_000_000).root
    rows = [[4 * WIDE, 0.0, 0.0]] if large == "result" else np.ones((4 * WIDE // 3, 3))  # 12.8 MB
    with (
        RedisServer() as server,
        TcpProxy(server.port) as link,
        WorkerProcess(link.url, root, concurrency=2) as worker,
        Client(server.url) as client,
    ):
        link.delay()
        job = client.submit("pads" if large == "result" else "raises", rows)
        if large == "result":
            waiting.until(lambda: "pads: batch of 1" in worker.log)
        else:
            waiting.until(lambda: server.client().hlen(next(iter(server.client().keys("mutirao:reserved:*")), "")) == 1)
        others = [client.predict("raises", [[1.0, 2.0, 3.0]], timeout=5) for _ in range(5)]
        assert job.status in {"queued", "running"}, "it was there before the others"
        assert [other["predict"].tolist() for other in others] == [[6.0]] * 5
        assert len(job.result(60)["predict"]) == len(rows)
        link.heal()


def test_a_worker_that_is_stopped_sends_its_large_result_first(small):
    """A warm shutdown while a large result is on a slow link waits for it: it is kept, and the worker ends without an error."""
    with (
        RedisServer() as server,
        TcpProxy(server.port) as link,
        WorkerProcess(link.url, small.repository.root) as worker,
        Client(server.url) as client,
    ):
        link.delay()
        job = client.submit("pads", [[2 * WIDE, 0.0, 0.0]])
        waiting.until(lambda: "pads: batch of 1" in worker.log)
        worker.stop()
        assert job.status == "succeeded", worker.log
        assert "Traceback" not in worker.log
        link.heal()
