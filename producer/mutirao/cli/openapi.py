"""`mutirao openapi`: the gateway's OpenAPI document."""

from __future__ import annotations

import sys

import click
import msgspec

from mutirao import errors, settings
from mutirao.cli import console, options
from mutirao.registry import ModelInfo


@click.command(epilog="Example: mutirao openapi > openapi.json")
@options.broker
def openapi(broker_url: str | None) -> None:
    """Print the OpenAPI 3.1 document of the HTTP gateway.

    Its examples are of the models that workers have announced; where Redis cannot be reached it has none.
    """
    from mutirao.gateway import app  # noqa: PLC0415 - its libraries are an extra
    from mutirao.gateway.openapi import document  # noqa: PLC0415

    made = msgspec.json.encode(document(app.handlers(), _models(broker_url)), enc_hook=str)
    sys.stdout.write(msgspec.json.format(made, indent=2).decode() + "\n")


def _models(broker_url: str | None) -> list[ModelInfo]:
    from mutirao.client.client import Client  # noqa: PLC0415 - the document itself needs none

    given = settings.load(broker_url=broker_url)
    try:
        with Client(given.broker_url, timeout_s=min(2.0, given.timeout_s)) as client:
            return client.models()
    except errors.BrokerUnavailable:
        console.note("Redis does not answer: the document has no examples")
        return []
