"""`mutirao gateway` and `mutirao openapi`: the HTTP gateway and its OpenAPI document."""

from __future__ import annotations

import logging
import sys
import time

import click
import msgspec

from mutirao import errors, settings
from mutirao.api_keys import ApiKeys
from mutirao.cli import console, options
from mutirao.cli.redis_store import connected
from mutirao.registry import ModelInfo

# The interval at which it looks for the first key.
KEY_POLL_S = 1.0


@click.command(epilog="Example: mutirao gateway --port 8000")
@click.option(
    "--host", help="The address to listen on [default: MUTIRAO_GATEWAY_HOST, else 127.0.0.1]; any other needs API keys."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="The port to listen on [default: MUTIRAO_GATEWAY_PORT, else 8000]; 0 for any that is free.",
)
@options.log_level("--log-level", "debug logs each request's route, never its path, query or content.")
@click.option("--await-key", is_flag=True, help="Without any API key, wait for the first one before listening.")
@options.broker
def gateway(*, host: str | None, port: int | None, log_level: str, await_key: bool, broker_url: str | None) -> None:
    """Serve HTTP: the Open Inference Protocol, jobs, a console page and documentation.

    It is one process; start several behind a load balancer, and each answers for every job. Without API keys it listens on this
    machine only.
    """
    from mutirao.gateway import app, server  # noqa: PLC0415 - their libraries are an extra

    _log(log_level.upper())
    loaded = settings.load(broker_url=broker_url, gateway_host=host, gateway_port=port)
    _refuse_gateway(loaded)
    if await_key:
        _await_key(loaded)
    app.refuse_open(loaded)
    listening = server.listen(loaded.gateway_host, loaded.gateway_port)
    state, built = app.build(loaded)
    address, bound_port = listening.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    console.note(
        f"gateway: http://{host}:{bound_port} (console), /docs (API), /metrics; Redis at {settings.without_password(loaded.broker_url)}"
    )
    server.serve(loaded, state, built, listening)


@click.command(epilog="Example: mutirao openapi > openapi.json")
@options.broker
def openapi(broker_url: str | None) -> None:
    """Print the OpenAPI 3.1 document of the HTTP gateway.

    Its examples use the models that workers have announced; without a connection to Redis there are none.
    """
    from mutirao.gateway import app  # noqa: PLC0415 - its libraries are an extra
    from mutirao.gateway.openapi import document  # noqa: PLC0415

    encoded = msgspec.json.encode(document.build(app.handlers(), _models(broker_url)), enc_hook=str)
    sys.stdout.write(msgspec.json.format(encoded, indent=2).decode() + "\n")


def _log(level: str) -> None:
    """Log mutirão's own messages from this level on, those of libraries from warnings on: they may quote what a client sent."""
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mutirao").setLevel(level)


def _await_key(loaded: settings.Settings) -> None:
    """Wait until there is a key; print once that the gateway waits for it."""
    with connected(loaded, ApiKeys) as (redis, keys):
        if not redis.run(keys.any()):
            console.note(
                "gateway: waits for the first API key: mutirao keys add TENANT, in containers docker compose run --rm operator keys add TENANT"
            )
        while not redis.run(keys.any()):
            time.sleep(KEY_POLL_S)


def _refuse_gateway(loaded: settings.Settings) -> None:
    if loaded.broker_url.startswith(("http://", "https://")):
        raise errors.SettingsError(
            f"MUTIRAO_BROKER_URL is {settings.without_password(loaded.broker_url)!r}: a gateway stands in front of Redis, not of another gateway",
            key="MUTIRAO_BROKER_URL",
        )


def _models(broker_url: str | None) -> list[ModelInfo]:
    from mutirao.client.client import Client  # noqa: PLC0415 - the document itself needs none

    loaded = settings.load(broker_url=broker_url)
    try:
        with Client(loaded.broker_url, timeout_s=min(2.0, loaded.timeout_s)) as client:
            return client.models()
    except errors.BrokerUnavailable:
        console.note("Redis does not answer: the document has no examples")
        return []
