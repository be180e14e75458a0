"""Serve the gateway by uvicorn, with limits on slow clients, and a shutdown that answers the requests under way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import resource
import socket
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mutirao import errors
from mutirao.gateway.state import process_pool
from mutirao.gateway.state.gateway import Gateway
from mutirao.settings import Settings
from mutirao.socket_options import options

# From the first byte of a request, or from the connection, to the end of its headers.
HEADERS_S = 10.0
HEADERS_BYTES = 64 * 1024
# The longest time that a body may take: this, and what its bytes take at a slow pace.
BODY_S = 10.0
BODY_BYTES_S = 16 * 1024
# How long a client may take no byte of an answer.
READ_S = 30.0
# For how long, and how much of the rest of a body that was answered early is read and thrown away: a client that sends all of it
# before it reads would see a reset, not the answer.
LINGER_S = 10.0
LINGER_BYTES = 64 * 1024 * 1024
# A response's body up to this size is copied, to be written together with the head.
JOINED_BYTES = 64 * 1024
# Requests that one connection may send ahead; no more is read while there are any.
AHEAD_MAX = 4096
# Connections that the kernel holds until this process takes them.
BACKLOG = 2048
KEEP_ALIVE_S = 75
# What is left of the grace when waits are ended, so that their answers still go out.
DRAIN_S = 1.0
# So many more objects than were freed have the garbage collector look at the young ones.
GARBAGE = 10_000

HEADERS = [
    (
        "content-security-policy",
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
]


class ResponseCycle(RequestResponseCycle):
    """A request and its response: a short response is written at once, and one that came before the end of the body leaves the
    connection open.

    Of two writes the client would read the first alone, at nearly twice the CPU time. To close with bytes of the body unread is a reset,
    which takes the response from the client; so `TimedConnection` closes it.
    """

    lingers = False
    _head = b""

    async def send(self, message: Any) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            await self._start(message)
            return
        if not message.get("more_body") and not self.keep_alive:
            self.lingers = self.keep_alive = self.more_body
        if self._head:
            message = {**message, "body": self._head + message.get("body", b"")}
            self.expected_content_length += len(self._head)
            self._head = b""
        await super().send(message)

    async def _start(self, message: Any) -> None:
        """Write the head, or keep it for the write of a short body."""
        transport, head = self.transport, io.BytesIO()
        self.transport = head  # type: ignore[assignment]  # a head is written and nothing else
        try:
            await super().send(message)
        finally:
            self.transport = transport
        written = head.getvalue()
        if 0 < self.expected_content_length <= JOINED_BYTES and self.scope["method"] != "HEAD":
            self._head = written
        elif written:  # nothing is where the client has gone
            transport.write(written)


class Flow(FlowControl):
    """Pauses reading while pipelined requests wait: uvicorn reads on after each response, and holds them without bound."""

    def __init__(self, transport: asyncio.Transport, ahead: Collection[Any]) -> None:
        """Take the requests that were sent ahead."""
        super().__init__(transport)
        self._ahead = ahead

    def resume_reading(self) -> None:
        """Read on, unless there are any."""
        if not self._ahead:
            super().resume_reading()


class TimedConnection(HttpToolsProtocol):
    """A connection that is closed when its client sends or reads too slowly, or sends too much besides bodies.

    Attributes:
        since: when the headers that are awaited began to be; None while none are.
        body_since: when the body that is awaited began to be; None while none is.
        answered_at: when a request whose body is still on its way was answered; None while there is none.
        stuck: when a byte of the answer was last taken, and how many were left.
    """

    since: float | None = None
    body_since: float | None = None
    answered_at: float | None = None
    stuck: tuple[float, int] = (0.0, 0)
    # What came since the last headers, or the last byte of a body: headers, trailers, the frames of chunks.
    _loose_bytes = 0
    _body_bytes = _body_max = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to await headers."""
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self.since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Take bytes; refuse too many that belong to no body."""
        if self.since is None and self.body_since is None and self._idle():
            self.since = self.loop.time()
        self._loose_bytes += len(data)
        super().data_received(data)
        if self._loose_bytes > HEADERS_BYTES:
            self._refuse(*_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Await the headers of a request; those of one behind a request that has no answer yet have as long after that one's."""
        if len(self.pipeline) >= AHEAD_MAX:
            raise _ParserStopped
        self.since = self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer, which comes behind the body, is nothing that anybody vouches for, and is dropped."""
        if self.since is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop awaiting headers."""
        if self._loose_bytes > HEADERS_BYTES and _size(self.url, self.headers) > HEADERS_BYTES:
            raise _ParserStopped
        self.since, self._loose_bytes = None, 0
        self.body_since, self._body_bytes = self.loop.time(), 0
        super().on_headers_complete()
        self.cycle.__class__ = ResponseCycle  # it has not begun; uvicorn has no place to name the class

    def on_body(self, body: bytes) -> None:
        """Take a part of the body: it buys time."""
        self._loose_bytes = 0
        self._body_bytes += len(body)
        if self.answered_at is not None and self._body_bytes > self._body_max:
            self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop awaiting a body."""
        self.body_since = self.answered_at = None
        super().on_message_complete()
        if isinstance(self.cycle, ResponseCycle) and self.cycle.lingers:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Go on to the next request; what is left of the body of this one is thrown away first."""
        super().on_response_complete()
        if self.body_since is None or self.transport.is_closing():
            return
        self.answered_at, self._body_max = self.loop.time(), self._body_bytes + LINGER_BYTES
        if isinstance(self.cycle, ResponseCycle) and self.cycle.lingers and self.transport.can_write_eof():
            self.transport.write_eof()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Answer that the request is not HTTP, in the form of all errors."""
        if self._loose_bytes > HEADERS_BYTES:
            self._refuse(*_TOO_LARGE)
        else:
            self._refuse(b"400 Bad Request", b"this is not a request in HTTP/1.1", b"BadRequest")

    def check_speed(self, now: float) -> None:
        """Close the connection if its client has been too slow for too long."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.since is not None and not self._idle():
            self.since = now
        if self.since is not None and now - self.since > HEADERS_S:
            self._refuse(b"408 Request Timeout", b"the headers came too slowly", b"SlowRequest")
            return
        if self.answered_at is not None and now - self.answered_at > LINGER_S:
            self.transport.abort()
            return
        if self.pipeline:  # its body is not read before the answer to the request before it is there
            self.body_since = None if self.body_since is None else now
        if self.body_since is not None and now - self.body_since > BODY_S + self._body_bytes / BODY_BYTES_S:
            self._refuse(b"408 Request Timeout", b"the body came too slowly", b"SlowRequest")
            return
        left = self.transport.get_write_buffer_size()
        if left == 0 or left != self.stuck[1]:
            self.stuck = (now, left)
        elif now - self.stuck[0] > READ_S:
            self.transport.abort()

    def _idle(self) -> bool:
        """Whether no request is without its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: bytes, text: bytes, kind: bytes) -> None:
        """Send an error and close the connection; only close it where the error would be taken for another request's response."""
        if self.transport.is_closing():
            return
        begun = self.cycle is not None and self.cycle.response_started and self.body_since is not None
        if begun or self.pipeline or (self.since is not None and not self._idle()):
            self.transport.abort()
            return
        body = b'{"error":"%b","type":"%b","data":{}}\n' % (text, kind)
        self.transport.write(_REFUSAL % (status, len(body)) + body)
        self.transport.close()


class _ParserStopped(Exception):
    """Stops the parser: the connection answers that the headers are too large, or is cut where too many requests were sent ahead."""


_REFUSAL = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
_TOO_LARGE = (b"431 Request Header Fields Too Large", b"the headers are too large", b"HeadersTooLarge")


def _size(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


class GatewayServer(uvicorn.Server):
    """Watches its connections, and ends waits before the grace period ends."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        """Take uvicorn's settings, and the gateway that is served."""
        super().__init__(config)
        self._gateway = gateway

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and begin to watch."""
        await super().startup(sockets)
        # What is there now lives as long as the process: a collector that goes through all of it holds every request up.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE)
        self._watching = asyncio.create_task(self._watch())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: long polls and streams are answered now, `infer` when its job ends or the grace does."""
        self._gateway.stop()
        loop, grace_s = asyncio.get_running_loop(), self._gateway.settings.grace_s
        farewell = loop.call_later(max(0.0, grace_s - DRAIN_S), self._gateway.give_up)
        await super().shutdown(sockets)
        farewell.cancel()
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Exit with code 0 after SIGTERM and SIGINT, where uvicorn would raise them again."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            now = loop.time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, TimedConnection):
                    connection.check_speed(now)


def listen(host: str, port: int) -> socket.socket:
    """Open the socket.

    Raises:
        SettingsError: the address is in use, or is none of this machine's; names the remedy.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for level, option, value in options(READ_S):  # which connections have from it
        listening.setsockopt(level, option, value)
    try:
        listening.bind((host.strip("[]"), port))
        listening.listen(BACKLOG)
    except OSError as exc:
        listening.close()
        raise _refused(host, port, exc) from exc
    listening.setblocking(False)
    return listening


def serve(settings: Settings, gateway: Gateway, app: ASGIApp, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    _raise_limit()
    process_pool.map_large_blocks()  # a body and its copies are large blocks
    whole: dict[str, Any] = {
        "access_log": False,
        "backlog": BACKLOG,
        "headers": HEADERS,
        "http": TimedConnection,
        "lifespan": "on",
        "log_config": None,
        "loop": "uvloop",
        "proxy_headers": False,
        "server_header": False,
        "timeout_graceful_shutdown": max(1, round(settings.grace_s)),
        "timeout_keep_alive": KEEP_ALIVE_S,
        "ws": "none",
    }
    GatewayServer(uvicorn.Config(app, **whole), gateway).run([listening])


def _raise_limit() -> None:
    """Let as many connections be open as the system allows this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _refused(host: str, port: int, exc: OSError) -> errors.SettingsError:
    if exc.errno == errno.EADDRINUSE:
        text = f"port {port} of {host} is in use: choose another with --port"
        return errors.SettingsError(text, key="MUTIRAO_GATEWAY_PORT", value=str(port))
    text = f"cannot listen to port {port} of {host!r}: {exc.strerror}; --host must be an address of this machine"
    return errors.SettingsError(text, key="MUTIRAO_GATEWAY_HOST", value=host)
