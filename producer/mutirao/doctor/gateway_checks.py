"""Checks of a gateway, through which the system is reached where the broker's URL is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec

from mutirao.client.http_backend.http_call import unavailable
from mutirao.doctor.finding import Finding
from mutirao.settings import Settings


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway, as it presents itself to this process.

    Attributes:
        url: its address.
        answered_ms: how long its answer about readiness took.
        missing: why it is not ready; empty where it is.
        keyed: whether this process has a key.
        status: how it answers to that, or to none: 200 where it lets this process in.
        says: why it does not.
    """

    url: str
    answered_ms: float
    missing: str = ""
    keyed: bool = False
    status: int = 200
    says: str = ""


class Said(msgspec.Struct, frozen=True):
    """What it answers of itself, or of an error."""

    ready: bool | None = None
    reason: str = ""
    models: tuple[msgspec.Raw, ...] | None = None
    error: str = ""


def read(given: Settings) -> Gateway:
    """Ask a gateway.

    Raises:
        BrokerUnavailable: it does not answer, or whoever answers is none.
        SettingsError: the package that speaks HTTP is not installed.
    """
    from mutirao.client.http_backend.transport import opened  # noqa: PLC0415 - httpx is an extra, and is loaded by those alone who use it

    with opened(given) as ask:
        began = time.monotonic()
        _, body = ask("/v2/health/ready")
        answered_ms = (time.monotonic() - began) * 1000
        ready = _read(given, body)
        status, body = ask("/v1/models")
        models = _read(given, body)
    return Gateway(
        url=given.broker_url,
        answered_ms=answered_ms,
        missing="" if ready.ready else ready.reason or ready.error,
        keyed=bool(given.api_key),
        status=status,
        says=models.error,
    )


def _read(given: Settings, body: bytes) -> Said:
    try:
        said = msgspec.json.decode(body, type=Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = Said()
    if said == Said():
        raise unavailable(given.broker_url, "it does not answer in a gateway's words", "does the URL name a gateway?")
    return said


def findings(gateway: Gateway) -> Iterator[Finding]:
    """Run every check."""
    for check in CHECKS:
        yield check(gateway)


def reachable(gateway: Gateway) -> Finding:
    """It answers."""
    return Finding("answer", "ok", f"the gateway at {gateway.url} answers in {gateway.answered_ms:.1f} ms")


def ready(gateway: Gateway) -> Finding:
    """Every model that workers have announced can be asked."""
    if gateway.missing:
        return Finding("ready", "problem", gateway.missing, "mutirao doctor with the URL of its Redis says more")
    return Finding("ready", "ok", "every announced model can be asked")


def key(gateway: Gateway) -> Finding:
    """It lets this process in."""
    if gateway.status in (401, 403):
        return Finding("key", "problem", gateway.says, "set MUTIRAO_API_KEY to a key of this gateway")
    if gateway.status != 200:
        return Finding("key", "unknown", gateway.says, "try again when the gateway is ready")
    return Finding("key", "ok", "accepted" if gateway.keyed else "none is needed")


CHECKS: tuple[Callable[[Gateway], Finding], ...] = (reachable, ready, key)
