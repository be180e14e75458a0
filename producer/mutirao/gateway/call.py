"""A request as handlers see it: its headers, its query, and its body, which is read within limits."""

from __future__ import annotations

import zlib
from typing import Any, cast
from urllib.parse import parse_qsl

from litestar.types import HTTPScope, Receive

from mutirao import errors
from mutirao.gateway.access import Caller

_KEY = "mutirao"


class Call:
    """One request.

    Attributes:
        headers: by lower-case name; of a repeated one the last. See `every` for all.
        caller: whose request it is.
        gone: set once the client is known to have gone.
    """

    __slots__ = ("_query", "_receive", "caller", "gone", "headers", "scope")

    def __init__(self, scope: HTTPScope, receive: Receive, caller: Caller) -> None:
        """Take what the server gives, and who asks."""
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.caller = caller
        self.gone = False
        self._receive = receive
        self._query: dict[str, str] | None = None

    @classmethod
    def of(cls, scope: Any) -> Call:
        """Find the request that this scope is of."""
        found: Call = scope[_KEY]
        return found

    def keep(self) -> None:
        """Be found by `of`."""
        cast("dict[str, Any]", self.scope)[_KEY] = self

    def header(self, name: bytes) -> str:
        """Read a header, "" where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    def every(self, name: bytes) -> list[str]:
        """Read all headers of one name."""
        return [value.decode("latin-1") for key, value in self.scope["headers"] if key == name]

    def param(self, name: str) -> str | None:
        """Read a parameter of the query, None where there is none; of a repeated one the first counts."""
        if not self.scope["query_string"]:
            return None
        if self._query is None:
            pairs = parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=100)
            self._query = dict(reversed(pairs))
        return self._query.get(name)

    def params(self, name: str) -> list[str]:
        """Read every value of a parameter."""
        pairs = parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=100)
        return [value for key, value in pairs if key == name]

    async def body(self, limit: int) -> bytes:
        """Read the body, decompressed.

        Raises:
            PayloadTooLarge: it is more than `limit` bytes, on the wire or decompressed.
            UnsupportedMedia: its Content-Encoding is not gzip, deflate or identity.
        """
        encoding = self.headers.get(b"content-encoding")
        declared = self.headers.get(b"content-length", b"0")
        if len(declared) > 15 or int(declared) > limit:
            raise _too_large(limit)
        message = await self._next()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await self._rest(body, limit)
        if len(body) > limit:
            raise _too_large(limit)
        return _decompressed(body, encoding.decode("latin-1"), limit) if encoding else body

    async def disconnected(self) -> None:
        """Wait until the client has gone; its body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True

    async def _next(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            raise ClientGone
        return message

    async def _rest(self, first: bytes, limit: int) -> bytes:
        """Read what is left of the body; how slowly it may come the server's connection knows."""
        parts, size, more = [first], len(first), True
        while more:
            message = await self._next()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
            more = message.get("more_body", False)
        return b"".join(parts)


class ClientGone(Exception):
    """The client has gone: there is nobody to answer."""


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise errors.UnsupportedMedia(
            f"Content-Encoding {encoding!r} is not read here: send gzip, deflate or nothing", reason="content encoding"
        )
    engine = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        found = engine.decompress(body, limit + 1)
    except zlib.error as exc:
        raise errors.InvalidRequest(f"the body is not {encoding}: {exc}", reason="damaged body") from exc
    if len(found) > limit:
        raise _too_large(limit)
    if not engine.eof or engine.unused_data:
        raise errors.InvalidRequest(f"the body is not one whole {encoding} stream", reason="damaged body")
    return found


def _too_large(limit: int) -> errors.PayloadTooLarge:
    text = f"the body is more than {limit} bytes: send fewer rows, or raise MUTIRAO_MAX_REQUEST_BYTES"
    return errors.PayloadTooLarge(text, limit=limit)
