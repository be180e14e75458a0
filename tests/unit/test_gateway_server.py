"""How the gateway's connections write: by a fake transport that keeps each write."""

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from mutirao.gateway import server
from mutirao.gateway.responses import response
from mutirao.gateway.responses.response import Parts, Response

GET = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Keeps what is written, a write at a time."""

    def __init__(self):
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data):
        assert not self.closed
        self.writes.append(bytes(data))

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        """Read on: what arrives is decided by the test."""

    resume_reading = pause_reading


def written(answer, *requests):
    """Send requests over one connection, each once the one before is answered; return the writes for each."""

    async def run():
        config = uvicorn.Config(answer, lifespan="off", log_config=None)
        config.load()
        connection = server.TimedConnection(config, ServerState(), {})
        transport, writes = FakeTransport(), []
        connection.connection_made(transport)
        for request in requests:
            connection.data_received(request)
            await asyncio.gather(*connection.tasks)
            writes.append(transport.writes)
            transport.writes = []
        connection.connection_lost(None)
        return writes, transport

    return asyncio.run(run())


def test_a_short_response_is_one_write():
    """Head and body leave together, of each response of a connection: after two writes a client reads twice."""
    (first, second), _ = written(response.json({"ready": True}), GET, GET)
    assert first == second
    (data,) = first
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncontent-length: 15" in head
    assert body == b'{"ready":true}\n'


def test_the_last_response_of_a_connection_is_one_write():
    """It is written before the connection is closed."""
    ((data,),), transport = written(response.json({}), GET.replace(b"host: here", b"host: here\r\nconnection: close"))
    assert data.endswith(b"connection: close\r\n\r\n{}\n")
    assert transport.closed


@pytest.mark.parametrize(
    ("answer", "request_", "count"),
    [
        (Response(200, b"x" * server.JOINED_BYTES), GET, 1),
        (Response(200, b"x" * (server.JOINED_BYTES + 1)), GET, 2),
        (response.json({}), GET.replace(b"GET", b"HEAD"), 1),
        (response.nothing(), GET, 1),
    ],
    ids=["short", "long", "head", "nothing"],
)
def test_all_of_a_response_is_written(answer, request_, count):
    """However long it is: a long body is not copied for the sake of one write, and no body is no reason to keep the head."""
    (writes,), _ = written(answer, request_)
    writes = [data for data in writes if data]
    assert len(writes) == count
    head, _, body = b"".join(writes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 20")
    assert body == (b"" if b"HEAD" in request_ else answer.body)


def test_the_parts_of_a_response_are_all_written():
    """The head leaves with the first part."""
    (writes,), _ = written(Parts([b"a" * 10, b"b" * 10], "text/csv"), GET)
    assert [data.rpartition(b"\r\n\r\n")[2] for data in writes if data] == [b"a" * 10, b"b" * 10]


def test_the_head_of_a_stream_waits_for_no_event():
    """A stream may have nothing to tell for long: its head is written before that."""
    heads = []

    async def stream(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        heads.extend(send.__self__.transport.writes)
        await send({"type": "http.response.body", "body": b": there\n\n"})

    written(stream, GET)
    (head,) = heads
    assert head.endswith(b"transfer-encoding: chunked\r\n\r\n")
