"""Whatever a Redis refuses and why, clients, the gateway and the command line say it as what it is, and go on when it is over."""

import contextlib
import threading

import pytest
import redis

from mutirao import BrokerUnavailable, Client
from mutirao.cli.console import Exit
from mutirao.redisdb import failure
from support.command_line import CommandLine
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.tcp_proxy import TcpProxy
from support.waiting import until

ROW = [[5.1, 3.5, 1.4, 0.2]]


@pytest.fixture(scope="module")
def server():
    with RedisServer(
        options={"enable-protected-configs": "yes", "save": "3600 1000000", "lua-time-limit": "20"}
    ) as made:
        yield made


@pytest.fixture(scope="module")
def http(server):
    with GatewayProcess(server.url, timeout_s=2) as gateway, gateway.client() as client:
        yield client


@contextlib.contextmanager
def _full(client):
    client.config_set("maxmemory", "1mb")
    yield
    client.config_set("maxmemory", "0")


@contextlib.contextmanager
def _replica(client):
    client.replicaof("127.0.0.1", 1)
    yield
    client.replicaof("NO", "ONE")


@contextlib.contextmanager
def _lost_replica(client):
    client.config_set("replica-serve-stale-data", "no")
    with _replica(client):
        yield
    client.config_set("replica-serve-stale-data", "yes")


@contextlib.contextmanager
def _unsaved(client):
    folder = client.config_get("dir")["dir"]
    client.config_set("dir", "/proc")
    client.bgsave()
    until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    client.config_set("dir", folder)
    client.bgsave()
    until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok")


@contextlib.contextmanager
def _forbidden(client):
    client.acl_setuser("default", enabled=True, commands=["-evalsha", "-mget"])
    yield
    client.acl_setuser("default", enabled=True, commands=["+evalsha", "+mget"])


@contextlib.contextmanager
def _busy(client):
    with redis.Redis(connection_pool=client.connection_pool) as other:

        def block():
            with contextlib.suppress(redis.ResponseError):
                other.eval("while true do end", 0)

        thread = threading.Thread(target=block)
        thread.start()
        until(lambda: _is_busy(client))
        yield
        client.script_kill()
        thread.join()


def _is_busy(client):
    try:
        client.get("x")
    except redis.ResponseError as exc:
        return "BUSY" in str(exc)
    return False


FAULTS = {
    "out of memory": _full,
    "a replica": _replica,
    "a replica without its master": _lost_replica,
    "not able to save": _unsaved,
    "no permission": _forbidden,
    "busy": _busy,
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_refusal_is_told_as_what_it_is(server, http, connect, reason, capsys, monkeypatch):
    """Calls that a client has open connections for are refused with the reason, and served as soon as it is gone."""
    with connect(server.url, check=False, timeout_s=2) as client:
        client.submit("iris", ROW)
        with FAULTS[reason](server.client()):
            with pytest.raises(BrokerUnavailable) as caught:
                client.submit("iris", ROW)
            assert caught.value.reason == reason, caught.value
            asked = http.post("/v1/jobs:wait", json={"ids": ["unknown"]})
            asked = asked if asked.status_code == 503 else http.delete("/v1/jobs/unknown")
            if reason not in ("a replica", "out of memory", "not able to save"):  # which let Redis read
                assert (asked.status_code, asked.json()["type"]) == (503, "BrokerUnavailable")
                assert asked.json()["data"] == {"reason": reason}
                assert asked.headers["retry-after"] == "1"
            shell = CommandLine(capsys, monkeypatch).at(server.url)
            if reason == "no permission":
                code, _, said = shell.run("status", "unknown")
                assert (code, "Traceback" in said) == (Exit.UNAVAILABLE, False), said
        assert client.submit("iris", ROW).status == "queued"
        assert http.post("/v1/jobs:wait", json={"ids": ["unknown"]}).json() == {"jobs": [], "missing": ["unknown"]}


def test_connections_are_made_anew_to_the_new_master(connect):
    """Where an address leads to another server after a failover, a client that is connected to the old one follows."""
    with RedisServer() as old, RedisServer() as new, TcpProxy(old.port) as proxy:
        with connect(proxy.url, check=False) as client:
            client.submit("iris", ROW)
            old.client().replicaof("127.0.0.1", new.port)
            proxy.lead_to(new.port)
            job = client.submit("iris", ROW)
            assert job.status == "queued"
        with Client(new.url) as other:
            assert other.job(job.id).status == "queued"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
        (
            redis.ResponseError("Error running script (call to f_ab): @user_script:5: -READONLY You can't write"),
            "READONLY",
        ),
        (
            redis.ResponseError(
                "OOM command not allowed when used memory > 'maxmemory'. script: ab, on @user_script:9."
            ),
            "OOM",
        ),
        (redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "OOM"),
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "LOADING"),
        (redis.ResponseError("The user executing the script can't run this command or subcommand"), "NOPERM"),
        (redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), ""),
        (redis.ConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused."), ""),
    ],
)
def test_a_refusal_is_known_by_its_word(said, code):
    """Whether redis-py has a class for it or not, and also where a script of an older Redis met it."""
    assert failure.code(said) == code
