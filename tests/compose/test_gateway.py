"""The gateway's containers: closed without a key, reached from this machine, and as many as are asked for."""

import json

import httpx
import pytest
import samples
from compose.stack import docker, missing

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


def addresses(stack):
    """Where this machine reaches each gateway."""
    found = [docker("port", container["Id"], "8000").split()[0] for container in stack.containers("gateway")]
    return [f"http://{address}" for address in found]


def test_gateways_scale_and_any_answers_for_any_job(two_workers):
    """Two gateways behind a range of ports are healthy; a job that one took is read at the other, with a key alone."""
    stack = two_workers
    told = stack.compose("run", "--rm", "operator", "keys", "add", "crm", "--json").stdout
    key = {"Authorization": f"Bearer {json.loads(told.splitlines()[-1])['token']}"}
    stack.compose("up", "--detach", "--no-recreate", "--scale", "worker=2", "--scale", "gateway=2", "gateway")
    stack.wait_health("gateway", "healthy", 2)
    first, second = addresses(stack)
    assert httpx.get(f"{first}/v1/models", trust_env=False).status_code == 401
    rows = samples.get("iris").data[:2].tolist()
    job = httpx.post(f"{first}/v1/models/iris/jobs", json={"rows": rows}, headers=key, trust_env=False).json()
    answer = httpx.get(
        f"{second}{job['links']['result']}", params={"wait": 30}, headers=key, timeout=60, trust_env=False
    ).json()
    assert answer["outputs"][0]["data"] == samples.get("iris").expected()[:2].tolist()
    assert stack.refused() == []
