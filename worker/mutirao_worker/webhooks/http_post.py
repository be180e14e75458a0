"""One POST to one address: no redirects, no proxies, no second look-up, over within 15 seconds whatever the receiver does.

http.client of the standard library over a connected socket: what could follow a redirect, read a proxy from the environment or
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
TIMEOUT_S = 15.0
# A response's status is all that counts; of its body no more than this is read.
MAX_READ_BYTES = 65_536


class ReceiverResponse(msgspec.Struct, frozen=True):
    """A receiver's response."""

    status: int
    retry_after: str | None = None


class DeliveryError(Exception):
    """The receiver could not be reached, or did not speak HTTP; says why without a word of the URL."""


def post(
    target: WebhookTarget,
    address: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tls: ssl.SSLContext,
    timeout_s: float = TIMEOUT_S,
) -> ReceiverResponse:
    """Send a body to a target at an address.

    Args:
        target: the host whose name TLS checks and the Host header carries.
        address: where to connect.
        headers: in addition to Host and Content-Length.
        body: what is sent.
        tls: which certificates are trusted.
        timeout_s: the longest that all of it may take.

    Raises:
        DeliveryError: there was no response, in time or at all.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with (
            socket.create_connection((address, target.port), min(CONNECT_S, timeout_s)) as connected,
            _shut_down_at_deadline(connected, deadline - time.monotonic()) as remaining_s,
            _wrapped_in_tls(connected, target, tls, remaining_s) as channel,
        ):
            return _exchange(channel, target, headers, body)
    except TimeoutError as exc:
        raise DeliveryError("timed out") from exc
    except ssl.SSLCertVerificationError as exc:
        raise DeliveryError(f"its certificate is not good: {exc.verify_message}") from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:
        late = time.monotonic() >= deadline
        raise DeliveryError("timed out" if late else _describe_failure(exc)) from exc


@contextlib.contextmanager
def _shut_down_at_deadline(connected: socket.socket, remaining_s: float) -> Iterator[float]:
    """Shut the connection down when its time is over: a receiver that sends a byte now and then runs into no socket's timeout."""
    if remaining_s <= 0:
        raise TimeoutError
    duplicate = connected.dup()  # TLS takes the socket itself over
    timer = threading.Timer(remaining_s, _shut_down, (duplicate,))
    timer.daemon = True
    timer.start()
    try:
        yield remaining_s
    finally:
        timer.cancel()
        timer.join()
        duplicate.close()


def _shut_down(duplicate: socket.socket) -> None:
    with contextlib.suppress(OSError):
        duplicate.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _wrapped_in_tls(
    connected: socket.socket, target: WebhookTarget, tls: ssl.SSLContext, remaining_s: float
) -> Iterator[socket.socket]:
    connected.settimeout(remaining_s)
    if target.scheme == "http":
        yield connected
        return
    with tls.wrap_socket(connected, server_hostname=target.host) as channel:
        yield channel


def _exchange(
    channel: socket.socket, target: WebhookTarget, headers: Mapping[str, str], body: bytes
) -> ReceiverResponse:
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
        response = connection.getresponse()
        status, retry_after = response.status, response.getheader("retry-after")
        with contextlib.suppress(OSError, http.client.HTTPException):  # the status counts, whatever becomes of the rest
            response.read(MAX_READ_BYTES)
        return ReceiverResponse(status, retry_after)
    finally:
        connection.close()


def _describe_failure(exc: Exception) -> str:
    """Describe a failure by its kind: the receiver's own words are not for our log."""
    kinds: dict[type[Exception], str] = {
        ConnectionRefusedError: "the connection was refused",
        ssl.SSLError: "TLS failed",
        ConnectionError: "the connection broke",
        http.client.HTTPException: "it did not answer as HTTP has it",
        ValueError: "it did not answer as HTTP has it",
    }
    return next((text for kind, text in kinds.items() if isinstance(exc, kind)), "it cannot be reached")
