"""When a model leaves the catalogue: removed, forgotten, or long unheard of; and that one whose workers merely stopped stays."""

import os
import shutil
import subprocess
import time

import msgspec
import pytest

from mutirao import ModelNotFound, keyspace, settings
from mutirao.doctor import fleet_checks as checks
from mutirao.doctor.snapshot import Snapshot
from mutirao.registry import ModelInfo
from support import brokers, sample_models, waiting
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.worker_process import BIN, Fleet, WorkerProcess

ROW = [[5.1, 3.5, 1.4, 0.2]]
DAYS_AGO = time.time() - 2 * 86_400


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A worker of a repository with iris and forest, another of one with houses alone, and a gateway."""
    root = tmp_path_factory.mktemp("withdrawing")
    first, second = (
        sample_models.repository(root / "a", "iris", "forest"),
        sample_models.repository(root / "b", "houses"),
    )
    with (
        RedisServer() as server,
        WorkerProcess(server.url, first.root, wait=False) as one,
        WorkerProcess(server.url, second.root, wait=False) as other,
        GatewayProcess(server.url) as gateway,
    ):
        one.wait_ready()
        other.wait_ready()
        yield Fleet(server, first, one), Fleet(server, second, other), gateway


def run(fleet, *args):
    """A command in the repository's machine."""
    env = {**os.environ, **brokers.environment(fleet.url), "MUTIRAO_MODELS": str(fleet.repository.root)}
    return subprocess.run(
        [str(BIN / "mutirao"), *args], capture_output=True, text=True, env=env, timeout=60, check=False
    )


def doctor(client):
    return checks.models(Snapshot(settings=settings.load({}), registry=client.catalog()))


def test_a_model_leaves_when_it_is_removed_and_stays_when_its_workers_stop(two):
    """Removed, it is gone at once, workers running or not; where its workers stopped, requests can be queued, and nobody waits for it."""
    fleet, other, gateway = two
    with fleet.client() as client, gateway.client() as http:

        def ready():
            return http.get("/v2/health/ready").status_code

        assert client.catalog().models.keys() == {"forest", "houses", "iris"}
        waiting.until(lambda: ready() == 200)
        said = run(fleet, "models", "remove", "forest", "--yes")
        assert (said.returncode, said.stdout, said.stderr) == (0, "removed model forest with all its versions\n", "")
        assert client.catalog().models.keys() == {"houses", "iris"}
        seen = fleet.server.client().hgetall(keyspace.WORKERS)
        waiting.until(lambda: not seen.items() & fleet.server.client().hgetall(keyspace.WORKERS).items(), timeout_s=15)
        assert client.catalog().models.keys() == {"houses", "iris"}  # all have announced themselves once more
        waiting.until(lambda: http.get("/v2/models/forest").status_code == 404)
        assert (ready(), doctor(client).level) == (200, "ok")
        kept = run(fleet, "models", "forget", "houses")
        assert (kept.returncode, other.worker.name in kept.stderr) == (1, True)

        other.worker.stop()
        assert client.catalog().models.keys() == {"houses", "iris"}
        waiting.until(lambda: [row["name"] for row in http.get("/v1/fleet").json()["models"]] == ["iris"])
        assert (ready(), doctor(client).level, "houses" in doctor(client).found) == (200, "ok", True)
        job = client.submit("houses", sample_models.get("houses").data[:1])
        if not brokers.AMQP:  # nobody counts what another server's queues hold
            waiting.until(lambda: [row["name"] for row in http.get("/v1/fleet").json()["models"]] == ["houses", "iris"])
        assert http.get("/v2/models/houses/ready").status_code == 503
        assert job.cancel()
        assert run(fleet, "models", "forget", "houses").returncode == 0
        assert client.catalog().models.keys() == {"iris"}
        assert run(fleet, "models", "forget", "houses").returncode == 3
        with pytest.raises(ModelNotFound):
            client.submit("houses", sample_models.get("houses").data[:1])

        shutil.rmtree(fleet.repository.root / "iris")  # by hand: the workers see it themselves
        waiting.until(lambda: not client.catalog().models, timeout_s=15)


def test_what_nobody_has_announced_for_a_day_is_forgotten_unless_something_waits(two):
    """A model long unheard of goes, one for which requests wait stays, and one of an earlier version gets its day."""
    fleet, _, _ = two
    redis = fleet.server.client()
    for name, seen_at in (("gone", DAYS_AGO), ("wanted", DAYS_AGO), ("lately", time.time())):
        redis.hset(keyspace.MODELS, name, msgspec.json.encode(ModelInfo(name=name, version="1", seen_at=seen_at)))
    redis.hset(keyspace.MODELS, "early", '{"name":"early","version":"1"}')
    redis.lpush(keyspace.queue_key("wanted", 3), "x")
    waiting.until(lambda: not redis.hexists(keyspace.MODELS, "gone"), timeout_s=15)
    with fleet.client() as client:
        known = client.catalog().models
        assert known.keys() >= {"wanted", "lately", "early"}
        assert known["early"].seen_at == pytest.approx(time.time(), abs=60)
        redis.delete(keyspace.queue_key("wanted", 3))
        waiting.until(lambda: not redis.hexists(keyspace.MODELS, "wanted"), timeout_s=15)
        assert client.catalog().models.keys() >= {"lately", "early"}
    redis.hdel(keyspace.MODELS, "lately", "early")


def test_a_removal_without_redis_says_what_is_left_to_do(tmp_path):
    """Where Redis is away, the model is removed, and a note names the command that takes it off the catalogue."""
    made = sample_models.repository(tmp_path / "models", "iris")
    env = {**os.environ, "MUTIRAO_BROKER_URL": "redis://127.0.0.1:1/0", "MUTIRAO_MODELS": str(made.root)}
    command = [str(BIN / "mutirao"), "models", "remove", "iris", "--yes"]
    said = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert (said.returncode, made.names()) == (0, ())
    assert "mutirao models forget iris" in " ".join(said.stderr.split())
