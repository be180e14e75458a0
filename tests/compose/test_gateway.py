"""The gateway's containers: they wait for a key, are reached from this machine, and are as many as are asked for."""

import json

import httpx
import pytest

from compose.stack import docker, missing
from mutirao.embedded.redis_server import free_port
from support import sample_models

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


def addresses(stack):
    """Where this machine reaches each gateway."""
    found = [docker("port", container["Id"], "8000").split()[0] for container in stack.containers("gateway")]
    return [f"http://{address}" for address in found]


def test_a_gateway_waits_for_a_first_key(two_workers):
    """Without any key it is unhealthy, says what to do, and answers nobody; the first key lets it listen, without a restart."""
    stack = two_workers
    stack.wait_health("gateway", "unhealthy")
    (gateway,) = stack.containers("gateway")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{addresses(stack)[0]}/v2/health/live", trust_env=False)
    assert "docker compose run --rm operator keys add" in stack.told("gateway")
    stack.compose("run", "--rm", "operator", "keys", "add", "first")
    stack.wait_health("gateway", "healthy")
    (now,) = stack.containers("gateway")
    assert now["State"]["StartedAt"] == gateway["State"]["StartedAt"]
    assert stack.refused() == []


def test_gateways_scale_and_any_answers_for_any_job(two_workers):
    """Two gateways behind a range of ports are healthy; a job that one took is read at the other, with a key alone."""
    stack = two_workers
    told = stack.compose("run", "--rm", "operator", "keys", "add", "crm", "--json").stdout
    key = {"Authorization": f"Bearer {json.loads(told.splitlines()[-1])['token']}"}
    stack.compose("up", "--detach", "--no-recreate", "--scale", "worker=2", "--scale", "gateway=2", "gateway")
    stack.wait_health("gateway", "healthy", 2)
    first, second = addresses(stack)
    assert httpx.get(f"{first}/v1/models", trust_env=False).status_code == 401
    rows = sample_models.get("iris").data[:2].tolist()
    job = httpx.post(f"{first}/v1/models/iris/jobs", json={"rows": rows}, headers=key, trust_env=False).json()
    answer = httpx.get(
        f"{second}{job['links']['result']}", params={"wait": 30}, headers=key, timeout=60, trust_env=False
    ).json()
    assert answer["outputs"][0]["data"] == sample_models.get("iris").expected()[:2].tolist()
    assert stack.refused() == []


def test_one_gateway_keeps_its_address(two_workers, monkeypatch):
    """With one port instead of a range, as by default, the gateway is where it was after a restart."""
    stack = two_workers
    port = free_port()
    monkeypatch.setenv("MUTIRAO_GATEWAY_PORTS", str(port))
    stack.compose("up", "--detach", "--scale", "gateway=1", "gateway")
    assert addresses(stack) == [f"http://127.0.0.1:{port}"]
    stack.compose("restart", "gateway")
    stack.wait_health("gateway", "healthy")
    assert addresses(stack) == [f"http://127.0.0.1:{port}"]
