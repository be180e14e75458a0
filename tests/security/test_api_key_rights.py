"""API keys and Redis's users: a gateway with the producer's rights checks keys and counts their limits, and makes none."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import redis

from mutirao import keyspace
from mutirao.api_keys import KeyLimits
from mutirao.cli.console import Exit
from mutirao.registry import ModelInfo
from mutirao.wire.signature import InputSpec, Signature
from support.blocking_keys import BlockingKeys
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer

ROLES = Path(__file__).parents[2] / "deploy/redis/acl"


@pytest.fixture
def as_role(redis_server):
    """Make a user with the rights of a role, and return its URL."""
    if redis_server.program.version < (7,):
        pytest.skip("this redis-server knows no rights to read alone (%R), which came with Redis 7")

    def made(role):
        rules = [line for line in (ROLES / role).read_text().splitlines() if line and not line.startswith("#")]
        redis_server.client().execute_command("ACL", "SETUSER", role, "on", ">secret", *rules)
        return redis_server.url.replace("redis://", f"redis://{role}:secret@")

    return made


def announce(server: RedisServer):
    """Have a model in the catalogue that no worker serves."""
    signature = Signature(inputs=(InputSpec("X", "FP64", (-1, 1)),), outputs=())
    info = ModelInfo(name="iris", version="1", versions=("1",), signature=signature)
    server.client().hset(keyspace.MODELS, "iris", msgspec.json.encode(info))


def test_the_gateway_needs_no_more_than_the_producers_rights(redis_server, as_role):
    """As the producer's user it lets keys in, counts their rate and their jobs, and finds that a job has ended."""
    announce(redis_server)
    with BlockingKeys(redis_server.url) as ring:
        _, token = ring.add("crm", limits=KeyLimits(rate_per_s=1000.0, burst=1000, in_flight=1))
    given = {"headers": {"authorization": f"Bearer {token}"}}
    with GatewayProcess(as_role("producer")) as gateway, gateway.client(**given) as client:
        first = client.post("/v1/models/iris/jobs", json={"rows": [[1.0]]})
        assert first.status_code == 202, first.text
        assert client.post("/v1/models/iris/jobs", json={"rows": [[1.0]]}).status_code == 429
        assert client.delete(f"/v1/jobs/{first.json()['id']}").status_code == 200
        assert client.post("/v1/models/iris/jobs", json={"rows": "none"}).status_code == 400
        assert (
            client.post("/v1/models/iris/jobs", json={"rows": [[1.0]]}).status_code == 202
        )  # what was refused left its place


def test_a_producer_makes_no_keys(redis_server, as_role):
    """It cannot write what a key is; `mutirao keys add` as its user fails with a named code, and the operator's works."""
    url = as_role("producer")
    with redis.Redis.from_url(url) as asking:
        for command in (("HSET", keyspace.KEYS, "a", "b"), ("DEL", keyspace.KEYS), ("HDEL", keyspace.KEYS, "a")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                asking.execute_command(*command)
    refused = added(url)
    assert refused.returncode == Exit.UNAVAILABLE
    assert "no permissions" in refused.stderr.lower()
    assert added(as_role("admin")).stdout.startswith("mutirao_")


def test_flower_sees_no_keys(redis_server, as_role):
    """Whoever watches the fleet reads neither keys nor limits."""
    with redis.Redis.from_url(as_role("flower")) as asking:
        for command in (("HGETALL", keyspace.KEYS), ("GET", keyspace.limit_keys("a")[0])):
            with pytest.raises(redis.exceptions.NoPermissionError):
                asking.execute_command(*command)


def added(url):
    command = [str(Path(sys.executable).parent / "mutirao"), "keys", "add", "crm", "--broker-url", url]
    return subprocess.run(command, capture_output=True, text=True, check=False)
