"""`mutirao gateway`: the HTTP front of the system."""

from __future__ import annotations

import contextlib
import logging
import time

import click

from mutirao import errors, settings
from mutirao.api_keys import ApiKeys
from mutirao.cli import console, options
from mutirao.redisdb.drivers import RedisDriver

# How often it looks for a first key.
LOOK_S = 1.0


@click.command(epilog="Example: mutirao gateway --port 8000")
@click.option(
    "--host", help="Where it listens; MUTIRAO_GATEWAY_HOST by default, 127.0.0.1. Beyond that only with keys."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="MUTIRAO_GATEWAY_PORT by default, 8000; 0 for any that is free."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="At debug each request has a line: its route, never its path, query or content.",
)
@click.option("--await-key", is_flag=True, help="Without any API key, wait for the first one before listening.")
@options.broker
def gateway(*, host: str | None, port: int | None, log_level: str, await_key: bool, broker_url: str | None) -> None:
    """Answer HTTP: the Open Inference Protocol, jobs, a console page and documentation.

    One process; start several behind a balancer, any of them answers for any job. Without API keys it listens to this machine alone.
    """
    from mutirao.gateway import app, server  # noqa: PLC0415 - their libraries are an extra

    _log(log_level.upper())
    now = settings.load(broker_url=broker_url, gateway_host=host, gateway_port=port)
    _refuse_foreign(now)
    if await_key:
        _await_key(now)
    app.refuse_open(now)
    listening = server.listen(now.gateway_host, now.gateway_port)
    front, built = app.build(now)
    address, bound = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    console.note(
        f"gateway: http://{shown}:{bound} (console), /docs (API), /metrics; Redis at {settings.without_password(now.broker_url)}"
    )
    server.serve(now, front, built, listening)


def _log(level: str) -> None:
    """Log our own words from this level on; those of libraries, which may quote what a client sent, from warnings on."""
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mutirao").setLevel(level)


def _await_key(now: settings.Settings) -> None:
    """Return once there is a key; say once that it is waited for."""
    with contextlib.closing(RedisDriver(now)) as redis:
        if not redis.run(ApiKeys(now).any()):
            console.note(
                "gateway: waits for the first API key: mutirao keys add TENANT, in containers docker compose run --rm operator keys add TENANT"
            )
        while not redis.run(ApiKeys(now).any()):
            time.sleep(LOOK_S)


def _refuse_foreign(now: settings.Settings) -> None:
    if now.broker_url.startswith(("http://", "https://")):
        raise errors.SettingsError(
            f"MUTIRAO_BROKER_URL is {settings.without_password(now.broker_url)!r}: a gateway stands in front of Redis, not of another gateway",
            key="MUTIRAO_BROKER_URL",
        )
