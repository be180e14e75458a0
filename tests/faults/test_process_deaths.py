"""Processes that die at the wrong moment: a pool child, a whole worker, Redis. Every accepted request ends, once."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time

import pytest

from mutirao import Client, WorkerLost, job_history, keyspace
from support import sample_models, waiting
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture
def lasting():
    """A Redis that writes each change down before it answers."""
    with RedisServer(options={"appendfsync": "always"}) as server:
        yield server


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return sample_models.repository(tmp_path_factory.mktemp("faults") / "models", "iris", "slow", "tellsprocess").root


def test_child_killed_while_it_predicts(fleet):
    """kill -9 of a pool child, again and again: its request runs again, and fails as WorkerLost when it has run three times."""
    with fleet.client() as client:
        job = client.submit("slow", [[60.0, 0, 0]])
        killed: set[int] = set()
        while len(killed) < 3:
            busy = _busy(fleet.worker, client) - killed
            for pid in busy:
                os.kill(pid, signal.SIGKILL)
            killed.update(busy)
            waiting.until(lambda: _up(fleet.worker, killed) == 2)
        with pytest.raises(
            WorkerLost, match=r"the process that ran the model died: .*SIGKILL.* gave up after 3 attempts"
        ):
            job.result(20)
        told = [(step.name, step.text) for step in job_history.steps(job.record())]
        name = fleet.worker.name
        assert [step for step in told if step[0] == "tried"] == [
            ("tried", f"on {name}: its process died; it runs again")
        ] * 2
        assert "attempt 3" in dict(told)["run"]
        assert all(job.result(20) for job in client.submit_many("iris", [ROW] * 20))


def _up(worker, killed):
    return len({child.pid for child in worker.children} - killed)


def _busy(worker, client):
    """Find the process that predicts: the other one answers who it is."""
    idle = int(client.predict("tellsprocess", [[0.0, 0, 0]], timeout=20)["predict"][0])
    return {child.pid for child in worker.children} - {idle}


def test_whole_worker_killed(redis_server, root):
    """kill -9 of the whole worker while it predicts: another answers the request once it has lapsed its lease, and loses none."""
    with Client(redis_server.url) as client, WorkerProcess(redis_server.url, root) as worker:
        jobs = [client.submit("slow", [[3.0, 0, 0]]), *client.submit_many("slow", [[0.0, 1, 0]] * 5)]
        waiting.until(lambda: jobs[0].status == "running")
        worker.kill()
        redis = redis_server.client()
        assert sum(map(redis.hlen, redis.keys(keyspace.reserved_key("*")))) >= 1
        with WorkerProcess(redis_server.url, root, concurrency=2):
            for job in jobs[1:]:
                assert job.result(30)["predict"].tolist() == [1.0]
            assert jobs[0].result(30)["predict"].tolist() == [3.0]
            assert jobs[0].record().job.attempts == 2


def test_second_delivery_is_not_run(redis_server, root):
    """A request that comes again after its result is known, as from a worker that died before its ack, is not run again."""
    redis = redis_server.client()
    with Client(redis_server.url, check=False) as client:
        job = client.submit("tellsprocess", [[0.0, 0, 0]])
        envelope = redis.lindex(keyspace.queue_key("tellsprocess", 3), 0)
        with WorkerProcess(redis_server.url, root) as worker:
            job.result(20)
            record = redis.get(keyspace.record_key(job.id))
            redis.lpush(keyspace.queue_key("tellsprocess", 3), envelope)
            client.predict("iris", [ROW], timeout=20)
            waiting.until(lambda: not redis.exists(keyspace.queue_key("tellsprocess", 3)))
            waiting.until(lambda: not redis.keys(keyspace.reserved_key("*")))
            assert worker.log.count(f"{job.id} first") == 1
        assert redis.get(keyspace.record_key(job.id)) == record
        assert worker.name == job.record().job.worker


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_redis_restarted_in_the_middle(lasting, root, kill):
    """Redis stopped, or killed, and started again: what was queued, ran or was waited for is answered, and work goes on."""
    with (
        WorkerProcess(lasting.url, root) as worker,
        Client(lasting.url) as client,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        running = client.submit("slow", [[2.0, 0, 0]])
        queued = client.submit_many("slow", [[0.0, 1, 0]] * 5)
        waits = [pool.submit(job.result, 60) for job in (running, *queued)]
        waiting.until(lambda: running.status == "running")
        lasting.restart(kill=kill)
        late = client.submit("iris", [ROW])
        assert [wait.result()["predict"].tolist() for wait in waits] == [[2.0], *[[1.0]] * 5]
        assert late.result(60)["predict"].tolist() == [0]
        assert worker.process.poll() is None
        waiting.until(lambda: [each.name for each in client.catalog().workers] == [worker.name])


def test_worker_before_redis(root):
    """A worker started before its Redis waits for it, and serves when it is there."""
    with RedisServer() as server:
        server.stop()
        with WorkerProcess(server.url, root, wait=False) as worker:
            worker.wait_logged("is away, connecting again")
            server.start()
            worker.wait_ready()
            with Client(server.url) as client:
                assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]


def test_redis_hangs_for_a_while(redis_server, root):
    """A Redis that does not answer for two seconds costs two seconds: nothing is lost, nobody hears of it."""
    with WorkerProcess(redis_server.url, root), Client(redis_server.url) as client:
        jobs = client.submit_many("slow", [[0.2, 0, 0]] * 5)
        redis_server.pause()
        time.sleep(2)  # the fault itself
        redis_server.resume()
        assert [job.result(30)["predict"].tolist() for job in jobs] == [[0.2]] * 5


def test_client_that_dies_leaves_its_job(fleet):
    """A client that is killed after it submitted leaves a job that anybody with its id reads."""
    program = f"""
import os, signal
from mutirao import Client
Client({fleet.url!r}).submit("slow", [[0.3, 0, 0]], id="orphan")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == -signal.SIGKILL
    with fleet.client() as client:
        assert client.job("orphan").result(20)["predict"].tolist() == [0.3]
