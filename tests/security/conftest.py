"""A whole system whose gateway asks for keys, for the modules that call it with some."""

import http.client

import pytest

from mutirao import api_keys
from support import sample_models, waiting
from support.blocking_keys import BlockingKeys
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess


class System:
    """A Redis with keys, a worker, and a gateway."""

    def __init__(self, server, gateway, ring):
        self.server, self.gateway, self.ring = server, gateway, ring
        self.secrets = []
        self._clients = {}

    def caller(self, tenant="crm", scopes=api_keys.SCOPES, limits=None, *, fresh=False):
        """An HTTP client with a key; where it has no limits, tests share it."""
        name = (tenant, tuple(scopes))
        if limits is None and not fresh and name in self._clients:
            return self._clients[name]
        key, token = self.ring.add(tenant, scopes=scopes, limits=limits)
        self.secrets.append(token[-43:])
        client = self.gateway.client(headers={"authorization": f"Bearer {token}"}, verify=False)
        client.key_id, client.token = key.id, token
        self._clients[name if limits is None and not fresh else key.id] = client
        waiting.until(lambda: client.get("/v2").status_code != 401, timeout_s=5)  # within a second
        return client

    def close(self):
        for client in self._clients.values():
            client.close()

    def plain(self, method, path, headers=None):
        """Send a path as it is, where an HTTP library would mend it; returns status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=10)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    root = tmp_path_factory.mktemp("keys") / "models"
    sample_models.repository(root, "iris", "houses")
    repository = sample_models.repository(root, "slow", time_limit_s=30.0)
    with (
        RedisServer() as server,
        BlockingKeys(server.url) as ring,
        WorkerProcess(server.url, repository.root, concurrency=2),
    ):
        ring.add("first")
        with GatewayProcess(server.url) as gateway:
            made = System(server, gateway, ring)
            yield made
            made.close()


@pytest.fixture
def caller(system):
    """Make HTTP clients with keys: caller(tenant, scopes=..., limits=...)."""
    return system.caller
