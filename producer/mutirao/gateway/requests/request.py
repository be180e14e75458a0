"""An HTTP request as handlers see it: its headers, its query, and its body, which is read within limits."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import parse_qsl

from litestar.types import HTTPScope, Receive

from mutirao import errors
from mutirao.gateway.auth.authenticator import Caller

PARAMS_MAX = 100
# Of these one counts: with two the client, a proxy and the gateway may each go by another.
_SINGLE = frozenset({
    b"content-encoding", b"content-type", b"idempotency-key", b"inference-header-content-length", b"last-event-id", b"mutirao-expires",
})  # fmt: skip
_KEY = "mutirao"


class Head:
    """A request without its body.

    Attributes:
        lines: its headers, names in lower case.
        headers: by name; of one that may be repeated the last. See `every` for all.
        query_string: as it came.
    """

    __slots__ = ("_query", "headers", "lines", "query_string")

    def __init__(self, lines: Iterable[tuple[bytes, bytes]], query_string: bytes) -> None:
        """Take the headers and the query.

        Raises:
            InvalidRequest: a header of which one counts comes twice, with two values.
        """
        self.lines = list(lines)
        self.headers: dict[bytes, bytes] = dict(self.lines)
        self.query_string = query_string
        self._query: dict[str, list[str]] | None = None
        if len(self.headers) != len(self.lines):
            for name in _SINGLE & self.headers.keys():
                _check_one_value(f"header {name.decode()}", self.every(name))

    def header(self, name: bytes) -> str:
        """Read a header, "" where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    def every(self, name: bytes) -> list[str]:
        """Read all headers of one name."""
        return [value.decode("latin-1") for key, value in self.lines if key == name]

    def param(self, name: str) -> str | None:
        """Read a parameter of the query, None where there is none.

        Raises:
            InvalidRequest: the query has too many, or this one twice, with two values.
        """
        values = self.params(name)
        if len(values) > 1:
            _check_one_value(f"parameter {name}", values)
        return values[0] if values else None

    def params(self, name: str) -> list[str]:
        """Read every value of a parameter.

        Raises:
            InvalidRequest: the query has too many.
        """
        if not self.query_string:
            return []
        if self._query is None:
            text = self.query_string.decode("latin-1")
            try:
                pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=PARAMS_MAX)
            except ValueError as exc:
                refusal = f"the query has more than {PARAMS_MAX} parameters: send them in the body"
                raise errors.InvalidRequest(refusal, reason="too many parameters") from exc
            self._query = {}
            for key, value in pairs:
                self._query.setdefault(key, []).append(value)
        return self._query.get(name, [])


def _check_one_value(what: str, values: list[str]) -> None:
    """Raise an error unless the values of a repeated header or parameter are the same."""
    other = next((value for value in values if value != values[0]), None)
    if other is not None:
        text = f"{what} comes twice, as {values[0][:40]!r} and as {other[:40]!r}: send it once"
        raise errors.InvalidRequest(text, reason="two values")


class Request(Head):
    """One request.

    Attributes:
        caller: its sender.
        gone: whether the client is known to have gone.
    """

    __slots__ = ("_receive", "caller", "gone", "scope")

    def __init__(self, scope: HTTPScope, receive: Receive, caller: Caller) -> None:
        """Take ASGI's scope and receive function, and the caller."""
        super().__init__(scope["headers"], scope["query_string"])
        self.scope = scope
        self.caller = caller
        self.gone = False
        self._receive = receive

    @classmethod
    def of(cls, scope: Any) -> Request:
        """Return the request of an ASGI scope."""
        request: Request = scope[_KEY]
        return request

    def attach(self) -> None:
        """Attach the request to its scope, for `of`."""
        cast("dict[str, Any]", self.scope)[_KEY] = self

    async def body(self, limit: int, remedy: str = "") -> bytes:
        """Read a small body, decompressed.

        Raises:
            PayloadTooLarge, UnsupportedMedia, InvalidRequest: as `raw` and `unpacked`.
        """
        return unpacked(self, await self.raw(limit, remedy), limit, remedy)

    async def raw(self, limit: int, remedy: str = "") -> bytes:
        """Read the body as it came.

        Raises:
            PayloadTooLarge: it is more than `limit` bytes.
        """
        declared = self.headers.get(b"content-length", b"0")
        if len(declared) > 15 or int(declared) > limit:
            raise _too_large(limit, remedy)
        message = await self._next()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await self._rest(body, limit, remedy)
        if len(body) > limit:
            raise _too_large(limit, remedy)
        return body

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

    async def _rest(self, first: bytes, limit: int, remedy: str) -> bytes:
        """Read the rest of the body; the server's connection limits how slowly it may arrive."""
        whole, more = bytearray(first), True
        while more:
            message = await self._next()
            whole += message.get("body", b"")
            if len(whole) > limit:
                raise _too_large(limit, remedy)
            more = message.get("more_body", False)
        return bytes(whole)


class ClientGone(Exception):
    """The client has gone, so nothing can be sent."""


def unpacked(head: Head, body: bytes, limit: int, remedy: str = "") -> bytes:
    """Decompress a body, as its Content-Encoding says.

    Raises:
        PayloadTooLarge: it is more than `limit` bytes then.
        UnsupportedMedia: the encoding is not gzip, deflate or identity.
        InvalidRequest: it is not one complete stream.
    """
    encoding = head.header(b"content-encoding").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise errors.UnsupportedMedia(
            f"Content-Encoding {encoding[:40]!r} is not supported: send gzip, deflate or no encoding",
            reason="content encoding",
        )
    engine = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = engine.decompress(body, limit + 1)
    except zlib.error as exc:
        raise errors.InvalidRequest(f"the body is not {encoding}: {exc}", reason="damaged body") from exc
    if len(plain) > limit:
        raise _too_large(limit, remedy)
    if not engine.eof or engine.unused_data:
        raise errors.InvalidRequest(f"the body is not one complete {encoding} stream", reason="damaged body")
    return plain


def _too_large(limit: int, remedy: str) -> errors.PayloadTooLarge:
    text = f"the body is more than {limit} bytes: {remedy or 'send fewer rows, or raise MUTIRAO_MAX_REQUEST_BYTES'}"
    return errors.PayloadTooLarge(text, limit=limit)
