"""Redis behind TLS, and behind Sentinel: clients, workers, results and events go through."""

import contextlib
import socket

import kombu
import pytest

from mutirao import BrokerUnavailable, settings, urls
from mutirao.redisdb.connection import connect as connect_redis
from mutirao.redisdb.drivers import options
from mutirao_worker.celery_adapter import transport
from mutirao_worker.engine import script_client
from support import sample_models
from support.certificates import TlsServer
from support.client_kinds import KINDS
from support.command_line import CommandLine
from support.redis_sentinel import MASTER, Sentinel
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

ROW = [[5.1, 3.5, 1.4, 0.2]]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return sample_models.repository(tmp_path_factory.mktemp("servers") / "models", "iris")


def test_tls(connect, repository, tmp_path):
    """Over rediss:// with a certificate that is trusted, a request is answered; nobody speaks without TLS."""
    with (
        TlsServer(tmp_path) as server,
        WorkerProcess(server.trusted_url, repository.root),
        connect(server.trusted_url) as client,
    ):
        assert client.predict("iris", ROW, timeout=20)["predict"].tolist() == [0]
        asked = server.client()
        plain = [each for each in asked.client_list() if each["laddr"].endswith(f":{server.port}")]
        assert [each["id"] for each in plain] == [str(asked.client_id())]


def test_an_unknown_certificate_is_refused(connect, tmp_path):
    """A server whose certificate nobody here trusts is not talked to, and the error says so."""
    with (
        TlsServer(tmp_path) as server,
        connect(server.tls_url, check=False) as client,
        pytest.raises(BrokerUnavailable, match="certificate verify failed"),
    ):
        client.predict("iris", ROW, timeout=5)


@pytest.mark.timeout(180)
def test_sentinel_names_another_master(connect, repository):
    """Over sentinel:// a request is answered, the master is killed, and the next one is answered by the same client and worker."""
    with (
        Sentinel() as sentinel,
        WorkerProcess(sentinel.url, repository.root, env=sentinel.env) as worker,
        connect(sentinel.url, sentinel_master=sentinel.env["MUTIRAO_SENTINEL_MASTER"]) as client,
    ):
        assert client.predict("iris", ROW, timeout=20)["predict"].tolist() == [0]
        sentinel.kill_master()
        assert client.predict("iris", ROW, timeout=40)["predict"].tolist() == [0]
        assert worker.process.poll() is None
        worker.stop()


def test_a_socket_of_this_machine(repository, tmp_path, capsys, monkeypatch):
    """Over unix:// clients of both kinds, a worker and the command line reach Redis, with its password and its database."""
    path = tmp_path / "redis.sock"
    url = f"unix://:p%2Fw@{path}?db=2"
    with (
        RedisServer(password="p/w", options={"unixsocket": str(path)}) as server,
        WorkerProcess(url, repository.root) as worker,
    ):
        for kind in KINDS.values():
            with kind(url) as client:
                assert client.predict("iris", ROW, timeout=20)["predict"].tolist() == [0]
        said = CommandLine(capsys, monkeypatch).run("doctor", "--broker-url", url)[1]
        assert "socket of this machine" in said
        assert "p/w" not in said + worker.log
        assert "p%2Fw" not in said + worker.log
        assert server.client(db=2).info("keyspace").keys() == {"db2"}


def _sockets(url, given):
    """Open every kind of connection that a worker has: kombu's two pools, the engine's scripts, and the result backend's."""
    transport.install()
    with kombu.Connection(urls.parse(url).explicit(), transport_options=transport.options(given)) as connection:
        made = connection.default_channel
        clients = (script_client.connect(url, given), connect_redis(url, given, **options(given)))
        pools = [made.pool, made.async_pool, *(client.connection_pool for client in clients)]
        for pool in pools:
            opened = pool.get_connection()
            yield opened._sock
            opened.disconnect()
        for client in clients:
            client.close()


@pytest.mark.parametrize("kind", ["redis", "rediss", "sentinel"])
def test_no_socket_waits_without_end(kind, tmp_path):
    """Each socket of a worker has a time-out, is kept alive, and breaks where what was sent over it is not acknowledged."""
    with contextlib.ExitStack() as stack:
        if kind == "sentinel":
            url = stack.enter_context(Sentinel()).url
        elif kind == "rediss":
            url = stack.enter_context(TlsServer(tmp_path)).trusted_url
        else:
            url = stack.enter_context(RedisServer()).url
        given = settings.load({"MUTIRAO_SENTINEL_MASTER": MASTER}, broker_url=url, timeout_s=3.0)
        found = [
            (
                each.gettimeout(),
                each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                each.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
            for each in _sockets(url, given)
        ]
    assert found == [(3.0, 1, 3000)] * 4
