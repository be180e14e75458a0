"""A model that one worker cannot serve and another can: its requests reach the one that can; where none can, they end with the reason."""

import subprocess
import time

import pytest

from mutirao import Client, ModelUnavailable, keyspace
from support import brokers, sample_models, waiting
from support.worker_process import BIN, WorkerProcess

ENV = {"MUTIRAO_LEASE_S": "3"}
ROW = [[5.1, 3.5, 1.4, 0.2]]


@pytest.fixture
def roots(tmp_path):
    """Two repositories of the same models; the second's file of iris is damaged."""
    good, bad = (sample_models.repository(tmp_path / name, "iris", "houses").root for name in ("good", "bad"))
    with (bad / "iris" / "1" / "model.joblib").open("ab") as file:
        file.write(b"one byte more than was added")
    return good, bad


def test_requests_reach_the_worker_that_can_load_their_model(redis_server, roots):
    """A worker with a damaged copy takes no request of it while another serves it, is no consumer of its queue, and serves the rest."""
    good, bad = roots
    with (
        Client(redis_server.url, check=False) as client,
        WorkerProcess(redis_server.url, bad, env=ENV, concurrency=2) as failing,
    ):

        def unavailable():
            with pytest.raises(
                ModelUnavailable, match=r"model 'iris' is unavailable: .* is not the file that was added"
            ):
                client.submit("iris", ROW).result(40)

        unavailable()
        if not brokers.AMQP:
            with failing.still():
                waits = client.submit("iris", ROW)
                command = [str(BIN / "mutirao"), "explain", waits.id, "--broker-url", redis_server.url]
                run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
            said = " ".join(run.stdout.split())
            assert f"no live worker can serve 'iris': {bad}/iris/1/model.joblib is not the file that was added" in said
        with WorkerProcess(redis_server.url, good, env=ENV) as serving:
            failing.wait_logged("mutirao.iris is left to the workers that can serve it: here ")
            jobs = [client.submit("iris", ROW) for _ in range(200)]
            assert all(job.result(20)["predict"].tolist() == [0] for job in jobs)
            assert {job.record().job.worker for job in jobs} == {serving.name}
            if not brokers.AMQP:
                consumers = redis_server.client().smembers(keyspace.consumers_key("mutirao.iris"))
                assert [name.decode().partition("#")[0] for name in consumers] == [serving.name]
            houses = sample_models.get("houses").data[:1]
            with serving.still():
                assert client.predict("houses", houses, timeout=20)["predict"].shape == (1,)
            serving.kill()
            unavailable()
        with WorkerProcess(redis_server.url, good, env=ENV) as serving:
            waiting.until(lambda: failing.log.count("mutirao.iris is left") == 2, what=lambda: failing.log)
            jobs = client.submit_many("iris", ROW * 200)
            assert all(job.result(20)["predict"].tolist() == [0] for job in jobs)
            serving.stop()
        waiting.until(lambda: failing.log.count("mutirao.iris is consumed again") == 2, what=lambda: failing.log)


@brokers.redis_only
def test_a_worker_that_has_left_its_only_queue_stays_alive(redis_server, roots):
    """It keeps its lease for longer than that runs, says why it fails, and ends the requests once it is alone."""
    good, bad = roots
    env = {"MUTIRAO_LEASE_S": "1"}
    with (
        Client(redis_server.url, check=False) as client,
        WorkerProcess(redis_server.url, bad, args=("--only", "iris"), env=env) as failing,
    ):
        with WorkerProcess(redis_server.url, good, env=env):
            failing.wait_logged("mutirao.iris is left")
            begun = time.monotonic()
            waiting.until(lambda: time.monotonic() > begun + 4 or len(client.catalog().workers) < 2)
            alive = client.catalog()
            assert [worker.failing.keys() for worker in alive.workers if worker.name == failing.name] == [{"iris"}]
            assert not alive.unleased
        with pytest.raises(ModelUnavailable, match="is not the file that was added"):
            client.submit("iris", ROW).result(20)
