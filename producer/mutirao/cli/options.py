"""Options and arguments that several commands share, with their completion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

from mutirao import errors, keyspace
from mutirao.tables.csv_dialect import HEADERS

Command = Callable[..., Any]

COMPLETION_S = 1.0
SECONDS = click.FloatRange(0, min_open=True)

broker = click.option(
    "--broker-url",
    metavar="URL",
    help="The URL of Redis or of a gateway [default: MUTIRAO_BROKER_URL, which keeps a password out of `ps`].",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one document a line, for scripts.")


class ModelName(click.ParamType[str]):
    """A model's name; completed with those that workers have announced."""

    name = "MODEL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        """Return the name unchanged: the client checks it."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Read the ids from Redis, for a second at most; no error is shown to who presses TAB."""
        found: list[CompletionItem] = []
        with contextlib.suppress(errors.MutiraoError):
            found = [
                CompletionItem(name) for name in _served(ctx.params.get("broker_url")) if name.startswith(incomplete)
            ]
        return found


class Data(click.ParamType[str]):
    """Rows, or where they are; completed with files."""

    name = "DATA"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        """Return the text unchanged: `input_data` reads it."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Let the shell complete files."""
        return [CompletionItem(incomplete, type="file")]


def request(command: Command) -> Command:
    """Add the options that `submit` and `predict` share."""
    shared: tuple[Callable[[Command], Command], ...] = (
        click.argument("model", type=ModelName()),
        click.argument("text", type=Data(), metavar="DATA"),
        click.option(
            "--output",
            "outputs",
            metavar="NAME",
            multiple=True,
            help="An output to return, repeatable; the model's default outputs if none is named.",
        ),
        click.option(
            "--id", metavar="ID", help="An id of your own: the same id with the same content is the same job."
        ),
        click.option(
            "--expires",
            type=SECONDS,
            metavar="S",
            help="Drop the request if it has not started in S seconds; MUTIRAO_EXPIRES_S by default, a day.",
        ),
        click.option(
            "--priority",
            type=click.Choice(get_args(keyspace.Priority)),
            default="normal",
            show_default=True,
            help="The priority of the request.",
        ),
        click.option(
            "--delimiter",
            metavar="SIGN",
            help="The delimiter of a CSV: comma, semicolon, tab or pipe; detected by default.",
        ),
        click.option("--decimal", metavar="SIGN", help="The decimal sign of a CSV, . or a comma; detected by default."),
        click.option(
            "--header",
            type=click.Choice(HEADERS),
            help="Whether the first line of a CSV names its columns; detected by default.",
        ),
        broker,
        as_json,
    )
    for option in reversed(shared):
        command = option(command)
    return command


def _served(broker_url: str | None) -> list[str]:
    from mutirao.client.client import Client  # noqa: PLC0415 - only completion of a model needs it

    with Client(broker_url, timeout_s=COMPLETION_S) as client:
        return [info.name for info in client.models()]
