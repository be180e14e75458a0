"""A response: a status, headers, and a body at once or in parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
from litestar.types import Receive, Scope, Send

JSON = "application/json"
BINARY = "application/octet-stream"
CSV = "text/csv"
NPY = "application/x-npy"
EVENTS = "text/event-stream"
# A client that takes no byte of a stream for this long counts as gone.
WRITE_S = 30.0

Headers = list[tuple[bytes, bytes]]
_ENCODER = msgspec.json.Encoder(enc_hook=str)


class Response:
    """A response; an ASGI application."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        media: str = JSON,
        headers: Headers | None = None,
        *,
        cache: bytes = b"no-store",
    ) -> None:
        """Take the status, the body and its media type, other headers, whose names are in lower case, and the Cache-Control value:
        by default no cache may keep it, since nearly every response is for one caller alone.
        """
        self.status = status
        self.body = body
        self.headers: Headers = [
            (b"content-type", media.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", cache),
            *(headers or ()),
        ]

    def with_header(self, name: bytes, value: str) -> Response:
        """Add a header, and return the response."""
        self.headers.append((name, plain(value)))
        return self

    def with_warnings(self, notes: Iterable[str]) -> Response:
        """Add a Warning header for each note, and return the response."""
        for note in notes:
            self.with_header(b"warning", f'299 mutirao "{note}"')
        return self

    def to_asgi_response(self, *_: object, **__: object) -> Response:
        """Return itself: Litestar calls this for what an exception handler returns."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


class Parts(Response):
    """A response whose body is sent in several parts, without joining them."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[bytes], media: str, headers: Headers | None = None) -> None:
        """Take the parts of the body."""
        super().__init__(200, b"", media, headers)
        self.headers[1] = (b"content-length", b"%d" % sum(map(len, parts)))
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStream(Response):
    """A stream of server-sent events; it ends with them, or when the client goes or takes nothing for `WRITE_S`."""

    __slots__ = ("_pieces", "_place")

    def __init__(self, pieces: AsyncIterator[bytes], place: AbstractContextManager[None]) -> None:
        """Take the events, and the place among the open waits, which is held from before the headers: later nothing can be refused."""
        super().__init__(200, b"", EVENTS)
        self.headers = [(b"content-type", EVENTS.encode()), (b"cache-control", b"no-store")]
        self._pieces = pieces
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it; the events' generator is closed however it ends.

        Raises:
            GatewayBusy: too many waits are open, and nothing was sent.
        """
        with self._place:
            await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
            await self._follow(receive, send)

    async def _follow(self, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            outcome, _ = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(outcome, Exception) and not isinstance(outcome, TimeoutError):
            raise outcome

    async def _send(self, send: Send) -> None:
        try:
            async for piece in self._pieces:
                async with asyncio.timeout(WRITE_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._pieces.aclose()  # type: ignore[attr-defined]


def json(value: Any, status: int = 200, headers: Headers | None = None) -> Response:
    """Return a response of JSON."""
    return Response(status, _ENCODER.encode(value) + b"\n", JSON, headers)


def nothing() -> Response:
    """Return a response without content (204), which has no length either."""
    empty = Response(204)
    empty.headers = [header for header in empty.headers if header[0] == b"cache-control"]
    return empty


def plain(text: str) -> bytes:
    """Replace what a header cannot hold, so that nothing in it ends the line."""
    return "".join(sign if " " <= sign <= "~" else "?" for sign in text).encode()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
