"""One request to a gateway and its answer, as plain data; and the error that an answer tells of."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from mutirao import errors
from mutirao.urls import scrubbed, without_password

JSON = "application/json"
BINARY = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"

T = TypeVar("T")


class HttpCall(msgspec.Struct, frozen=True):
    """A request. Every one of ours may be sent twice: submits carry their ids.

    Attributes:
        method: GET, POST or DELETE.
        path: below the gateway's URL.
        query: its parameters.
        body: what is sent; nothing where it is empty.
        headers: beside those that every request has.
        wait_s: how long the gateway may wait before it answers, in seconds.
        polls: whether it waits for what others do.
    """

    method: str
    path: str
    query: Mapping[str, str] = {}
    body: bytes = b""
    headers: Mapping[str, str] = {}
    wait_s: float = 0.0
    polls: bool = False


class Reply(NamedTuple):
    """An answer, of a status below 300; the headers' names in lower case."""

    headers: Mapping[str, str]
    body: bytes


Operation = Generator[HttpCall, Reply, T]


class ErrorBody(msgspec.Struct, frozen=True):
    """What a gateway says of an error.

    Attributes:
        error: its sentence.
        type: its class in `errors`.
        data: its attributes.
    """

    error: str
    type: str = ""
    data: dict[str, Any] = {}

    def raised(self) -> errors.MutiraoError:
        """Build the error; of a class that is not known here, one of the root."""
        kind = errors.class_named(self.type) or errors.MutiraoError
        return kind(self.error, **{key: tuple(v) if isinstance(v, list) else v for key, v in self.data.items()})


def refused(status: int, body: bytes, url: str) -> errors.MutiraoError:
    """Build the error that an answer of this status tells of; what is not said in a gateway's words is not a gateway's."""
    try:
        return msgspec.json.decode(body, type=ErrorBody).raised()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return unavailable(url, f"status {status}, and not in a gateway's words", "does the URL name a gateway?")


def unavailable(url: str, reason: str, remedy: str = "is it running?") -> errors.BrokerUnavailable:
    """Say in one sentence why a gateway could not serve a call."""
    shown = without_password(url)
    text = f"the gateway at {shown} is unavailable: {scrubbed(reason, url)}; {remedy}"
    return errors.BrokerUnavailable(text, url=shown)
