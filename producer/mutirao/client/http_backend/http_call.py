"""A request to a gateway and its reply as plain data, and the errors that replies stand for."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from mutirao import errors
from mutirao.urls import scrubbed, without_password
from mutirao.wire.http_schemas import Problem

JSON = "application/json"
BINARY = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"

T = TypeVar("T")


class HttpCall(msgspec.Struct, frozen=True):
    """A request. Every request may be sent twice, since submits carry their ids.

    Attributes:
        method: GET, POST or DELETE.
        path: below the gateway's URL, with its query.
        body: what is sent; nothing where it is empty.
        headers: in addition to those of every request.
        wait_s: how long the gateway may wait before it answers, in seconds.
        polls: whether it is a long poll, which does not count among the concurrent calls.
    """

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = {}
    wait_s: float = 0.0
    polls: bool = False


class Reply(NamedTuple):
    """A reply of a status below 300; the headers' names in lower case."""

    headers: Mapping[str, str]
    body: bytes


Operation = Generator[HttpCall, Reply, T]


class ErrorBody(Problem, frozen=True, kw_only=True):
    """An error as a gateway tells it, decoded leniently."""

    type: str = ""

    def raised(self) -> errors.MutiraoError:
        """Build the error; one of the root class where its class is not known here."""
        kind = errors.class_named(self.type) or errors.MutiraoError
        return kind(self.error, **{key: tuple(v) if isinstance(v, list) else v for key, v in self.data.items()})


def error_from(status: int, body: bytes, url: str) -> errors.MutiraoError:
    """Build the error that a reply of this status stands for; a body that is not a gateway's means that no gateway answered."""
    try:
        return msgspec.json.decode(body, type=ErrorBody).raised()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return unavailable(url, f"status {status}, and not in a gateway's words", "does the URL name a gateway?")


def unavailable(url: str, reason: str, remedy: str = "is it running?") -> errors.BrokerUnavailable:
    """Build the error that says why a gateway could not serve a call."""
    shown = without_password(url)
    text = f"the gateway at {shown} is unavailable: {scrubbed(reason, url)}; {remedy}"
    return errors.BrokerUnavailable(text, url=shown)
