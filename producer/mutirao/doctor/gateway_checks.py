"""Checks of a gateway, for clients whose broker URL is a gateway's."""

from __future__ import annotations

import time

import msgspec

from mutirao.client.http_backend.http_call import unavailable
from mutirao.doctor.finding import Checks, Finding, ok, problem
from mutirao.settings import Settings


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway tells this process.

    Attributes:
        url: its address.
        answered_ms: how long its answer about readiness took.
        missing: why it is not ready; empty where it is.
        has_key: whether this process has a key.
        status: the status of its answer with this key, or without one: 200 where it accepts that.
        refusal: why it does not accept it.
    """

    url: str
    answered_ms: float
    missing: str = ""
    has_key: bool = False
    status: int = 200
    refusal: str = ""


class Body(msgspec.Struct, frozen=True):
    """The fields that are read of its answers and errors."""

    ready: bool | None = None
    reason: str = ""
    models: tuple[msgspec.Raw, ...] | None = None
    error: str = ""


CHECKS = Checks[Gateway]()


def read(settings: Settings) -> Gateway:
    """Ask a gateway whether it is ready, and whether it accepts this process's key.

    Raises:
        BrokerUnavailable: it does not answer, or what answers is not a gateway.
        SettingsError: the package that speaks HTTP is not installed.
    """
    from mutirao.client.http_backend.transport import opened  # noqa: PLC0415 - httpx is an extra, loaded only by those who use it

    with opened(settings) as get:
        began = time.monotonic()
        _, body = get("/v2/health/ready")
        answered_ms = (time.monotonic() - began) * 1000
        ready = _decoded(settings, body)
        status, body = get("/v1/models")
        models = _decoded(settings, body)
    return Gateway(
        url=settings.broker_url,
        answered_ms=answered_ms,
        missing="" if ready.ready else ready.reason or ready.error,
        has_key=bool(settings.api_key),
        status=status,
        refusal=models.error,
    )


def _decoded(settings: Settings, raw: bytes) -> Body:
    try:
        body = msgspec.json.decode(raw, type=Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = Body()
    if body == Body():
        raise unavailable(settings.broker_url, "its answer is not a gateway's", "does the URL name a gateway?")
    return body


@CHECKS.add("answer")
def reachable(gateway: Gateway) -> Finding:
    """It answers."""
    return ok(f"the gateway at {gateway.url} answers in {gateway.answered_ms:.1f} ms")


@CHECKS.add("ready")
def ready(gateway: Gateway) -> Finding:
    """Every model that workers have announced can answer."""
    if gateway.missing:
        return problem(gateway.missing, "mutirao doctor with the URL of its Redis says more")
    return ok("every announced model can answer")


@CHECKS.add("key")
def key(gateway: Gateway) -> Finding:
    """It accepts this process's key, or needs none."""
    if gateway.status in (401, 403):
        return problem(gateway.refusal, "set MUTIRAO_API_KEY to a key of this gateway")
    if gateway.status != 200:
        return Finding("", "unknown", gateway.refusal, "try again when the gateway is ready")
    return ok("accepted" if gateway.has_key else "none is needed")
