"""`mutirao gateway` as an operator meets it: what it says, and what it refuses to start with."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support import waiting
from support.command_line import CommandLine
from support.gateway_process import GatewayProcess

pytestmark = pytest.mark.executed

MUTIRAO = Path(sys.executable).parent / "mutirao"


def refused(*args, **env):
    done = subprocess.run(
        [MUTIRAO, "gateway", *args], env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_it_says_where_it_listens_without_a_password(redis_server):
    """The first line names the address, the page of the API, and Redis."""
    with GatewayProcess(redis_server.url) as gateway:
        assert f"gateway: {gateway.url} (console), /docs (API), /metrics" in gateway.log


def test_a_port_in_use_is_named(redis_server):
    """Another program's port is refused in one line, with the remedy."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = refused("--port", port, MUTIRAO_BROKER_URL=redis_server.url)
    assert port in said
    assert "--port" in said


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_this_machine_it_wants_keys(redis_server, host):
    """Without a key it listens to loopback alone, and says how to make one."""
    said = refused("--host", host, "--port", "0", MUTIRAO_BROKER_URL=redis_server.url)
    assert "mutirao keys add" in said


def test_it_can_wait_for_the_first_key(redis_server, capsys, monkeypatch):
    """With --await-key it says once how a key is made, listens to nobody until there is one, and then asks for it."""
    with GatewayProcess(redis_server.url, "--await-key", wait=False, gateway_host="0.0.0.0") as gateway:
        waiting.until(lambda: "waits for the first API key: mutirao keys add" in gateway.log)
        with gateway.client() as client, pytest.raises(httpx.ConnectError):
            client.get("/v2/health/live")
        assert CommandLine(capsys, monkeypatch).at(redis_server.url).run("keys", "add", "crm")[0] == 0
        gateway.wait_ready()
        with gateway.client() as client:
            assert client.get("/v1/models").status_code == 401
        assert gateway.log.count("keys add") == 2


def test_a_gateway_of_a_gateway_is_refused():
    """MUTIRAO_BROKER_URL must be Redis's."""
    assert "not of another gateway" in refused(MUTIRAO_BROKER_URL="http://127.0.0.1:8000")


@pytest.mark.parametrize(("name", "value"), [("WAIT_S", "-1.5"), ("WAITS", "-1"), ("PORT", "70000"), ("PORT", "x")])
def test_a_setting_that_cannot_be_used_is_named(name, value):
    """Key, value and rule are in the line."""
    said = refused(**{f"MUTIRAO_GATEWAY_{name}": value})
    assert f"MUTIRAO_GATEWAY_{name} is {value!r}" in said
