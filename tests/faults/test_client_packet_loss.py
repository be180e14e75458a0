"""Connections of clients and gateways that are gone without a word: once new ones are let through, answers come as ever."""

import asyncio
import contextlib
import socket
import time

import pytest
import uvloop

from mutirao import BrokerUnavailable, ResultTimeout, settings
from mutirao.gateway import server
from mutirao.redisdb.connection import connect_async
from mutirao.redisdb.drivers import options
from support.gateway_process import GatewayProcess
from support.tcp_proxy import TcpProxy
from support.waiting import until

ROW = [[5.1, 3.5, 1.4, 0.2]]
LOST = [("requests", "replies"), ("replies",)]
# A result that is not announced is found by a look a second later.
PROMPT_S = 0.7


def _promptly(predict):
    """Whether an answer comes, and by its announcement."""
    began = time.monotonic()
    return predict() and time.monotonic() - began < PROMPT_S


@pytest.mark.parametrize("lost", LOST, ids="-".join)
def test_a_client_hears_its_answers_again(fleet, connect, lost):
    """Whichever direction is lost of all that a client has open, it is answered promptly again by itself."""
    with TcpProxy(fleet.server.port) as proxy, connect(proxy.url, timeout_s=1) as client:

        def predict():
            with contextlib.suppress(BrokerUnavailable, ResultTimeout):
                return client.predict("iris", ROW, timeout=10)["predict"].tolist() == [0]

        until(lambda: _promptly(predict))
        proxy.forget(*lost)
        until(lambda: _promptly(predict))


@pytest.mark.parametrize("lost", LOST, ids="-".join)
def test_a_gateway_hears_its_answers_again(fleet, lost):
    """So does a gateway, and meanwhile it says what is the matter: never 500."""
    with TcpProxy(fleet.server.port) as proxy, GatewayProcess(proxy.url, timeout_s=1) as gateway:
        statuses = set()
        with gateway.client() as http:

            def predict():
                asked = http.post("/v2/models/iris/infer", json={"rows": ROW}, headers={"prefer": "wait=5"})
                statuses.add(asked.status_code)
                return asked.status_code == 200

            until(lambda: _promptly(predict))
            proxy.forget(*lost)
            until(lambda: _promptly(predict))
            proxy.reset()
            until(lambda: _promptly(predict))
        assert statuses <= {200, 503, 504}, gateway.log


def test_a_connection_that_the_other_side_has_closed(redis_server):
    """On uvloop, which raises an error of its own there, a command over a closed connection is sent over a new one."""

    async def main():
        given = settings.load(broker_url=redis_server.url)
        client = connect_async(redis_server.url, given, **options(given, asyncio=True))
        connection = await client.connection_pool.get_connection()
        connection._writer.transport.abort()
        await asyncio.sleep(0.01)  # which the reader has not come to see, since nobody reads
        connection.next_health_check = 0.0
        await connection.send_command("ECHO", "again")
        said = await connection.read_response()
        await client.connection_pool.release(connection)
        await client.aclose()
        return said

    assert uvloop.run(main()) == b"again"


def test_a_client_that_has_vanished_is_noticed():
    """A connection to a gateway breaks when its client's machine acknowledges nothing, whether or not anything is sent."""
    listening = server.listen("127.0.0.1", 0)
    with listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 10
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == server.READ_S * 1000
