"""One POST to one address: no redirects, no proxies, no second look-up, and an end after 15 seconds whatever the receiver does.

http.client of the standard library over a socket of ours: what could follow a redirect, read a proxy from the environment or
resolve the name again is not there in the first place.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping

import msgspec

from mutirao.webhook_policy import WebhookTarget

CONNECT_S = 5.0
WHOLE_S = 15.0
# An answer's status is all that counts; of its body no more than this is read.
READ_BYTES = 65_536


class Answer(msgspec.Struct, frozen=True):
    """What a receiver said."""

    status: int
    retry_after: str | None = None


class DeliveryError(Exception):
    """The receiver could not be reached, or did not answer as HTTP has it; says why without a word of the URL."""


def post(
    target: WebhookTarget,
    address: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    trust: ssl.SSLContext,
    whole_s: float = WHOLE_S,
) -> Answer:
    """Send a body to a target at an address.

    Args:
        target: whose name TLS checks and the Host header says.
        address: where to connect.
        headers: beside Host and Content-Length.
        body: what is sent.
        trust: whose certificates are believed.
        whole_s: the longest that all of it may take.

    Raises:
        Unreached: there was no answer, in time or at all.
    """
    until = time.monotonic() + whole_s
    try:
        with (
            socket.create_connection((address, target.port), min(CONNECT_S, whole_s)) as connected,
            _ended(connected, until - time.monotonic()) as left,
            _secured(connected, target, trust, left) as channel,
        ):
            return _exchange(channel, target, headers, body)
    except TimeoutError as exc:
        raise DeliveryError("timed out") from exc
    except ssl.SSLCertVerificationError as exc:
        raise DeliveryError(f"its certificate is not good: {exc.verify_message}") from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:
        late = time.monotonic() >= until
        raise DeliveryError("timed out" if late else _said(exc)) from exc


@contextlib.contextmanager
def _ended(connected: socket.socket, left_s: float) -> Iterator[float]:
    """End the connection when its time is over: a receiver that sends a byte now and then runs into no socket's timeout."""
    if left_s <= 0:
        raise TimeoutError
    twin = connected.dup()  # TLS takes the socket itself over
    timer = threading.Timer(left_s, _shut, (twin,))
    timer.daemon = True
    timer.start()
    try:
        yield left_s
    finally:
        timer.cancel()
        timer.join()
        twin.close()


def _shut(twin: socket.socket) -> None:
    with contextlib.suppress(OSError):
        twin.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _secured(
    connected: socket.socket, target: WebhookTarget, trust: ssl.SSLContext, left_s: float
) -> Iterator[socket.socket]:
    connected.settimeout(left_s)
    if target.scheme == "http":
        yield connected
        return
    with trust.wrap_socket(connected, server_hostname=target.host) as channel:
        yield channel


def _exchange(channel: socket.socket, target: WebhookTarget, headers: Mapping[str, str], body: bytes) -> Answer:
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.auto_open = 0
    connection.sock = channel
    try:
        connection.putrequest("POST", target.path, skip_host=True, skip_accept_encoding=True)
        for name, value in {
            "host": target.origin,
            **headers,
            "content-length": str(len(body)),
            "connection": "close",
        }.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        status, retry_after = answer.status, answer.getheader("retry-after")
        with contextlib.suppress(OSError, http.client.HTTPException):  # said is said, whatever becomes of the rest
            answer.read(READ_BYTES)
        return Answer(status, retry_after)
    finally:
        connection.close()


def _said(exc: Exception) -> str:
    """Say what went wrong by its kind: the receiver's own words are not for our log."""
    if isinstance(exc, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(exc, ssl.SSLError):
        return "TLS failed"
    if isinstance(exc, ConnectionError):
        return "the connection broke"
    return (
        "it did not answer as HTTP has it"
        if isinstance(exc, http.client.HTTPException | ValueError)
        else "it cannot be reached"
    )
