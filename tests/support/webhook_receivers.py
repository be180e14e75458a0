"""Receivers of webhooks: real HTTP servers on 127.0.0.1, well and ill.

with Receiver() as receiver:                       # answers 204
    receiver.url, receiver.requests
with Receiver(500, 500, 200) as receiver: ...      # one after another; the last one stays
with Silent() as receiver: ...                     # accepts, and never says a word
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

import msgspec

from support import waiting

HOST = "127.0.0.1"


class Received(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> Any:
        return msgspec.json.decode(self.body)


class Receiver:
    """Listens from the constructor on, a thread for each connection; use it as a context manager.

    Args:
        statuses: what it answers, one after another; the last one stays.
        headers: beside each answer.
        body: of each answer.
        before: called, with its handler, before each answer.
        tls: a context with a certificate, for https.
        port: one of its own by default.
        host: the address it listens on.
    """

    def __init__(
        self,
        *statuses: int,
        headers: dict[str, str] | None = None,
        body: Callable[[], Iterator[bytes]] = lambda: iter(()),
        before: Callable[[BaseHTTPRequestHandler], object] = lambda _: None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        host: str = HOST,
    ) -> None:
        self._statuses = list(statuses) or [204]
        self._lock = threading.Lock()
        self.requests: list[Received] = []
        self.connections = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 20

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                given = {name.lower(): value for name, value in self.headers.items()}
                status = receiver._next(Received(self.path, given, self.rfile.read(length), time.time()))
                before(self)
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in (headers or {}).items():
                        self.send_header(name, value)
                    self.end_headers()
                    for part in body():
                        self.wfile.write(part)

            def log_message(self, format: str, *args: Any) -> None:
                """Tests look at `requests`."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A caller that goes away, or does not trust us, is part of the test."""

            def get_request(self) -> tuple[Any, Any]:
                receiver.connections += 1
                return super().get_request()

        self._server = Server((host, port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hook"

    def wait(self, count: int = 1, timeout_s: float = 20.0) -> list[Received]:
        """Wait until so many requests have come; return them."""
        waiting.until(lambda: len(self.requests) >= count, timeout_s=timeout_s, what=lambda: self.requests)
        return self.requests

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _next(self, received: Received) -> int:
        with self._lock:
            self.requests.append(received)
            return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]


class Silent:
    """Accepts connections, by the system's own hand, and never says a word."""

    def __init__(self) -> None:
        self._socket = socket.create_server((HOST, 0), backlog=128)
        self.port = int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hook"

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
