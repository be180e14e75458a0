"""Options and arguments that several commands share, and their completion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

from mutirao import errors, keyspace
from mutirao.tables.csv_dialect import HEADERS

Command = Callable[..., Any]
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

COMPLETION_S = 1.0
SECONDS = click.FloatRange(0, min_open=True)

broker = click.option(
    "--broker-url",
    metavar="URL",
    help="The URL of Redis or of a gateway [default: MUTIRAO_BROKER_URL, which keeps a password out of `ps`].",
)
job_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one document a line, for scripts.")


def completion(read: Callable[[str | None], Iterable[CompletionItem]], most: int | None = None) -> Complete:
    """Complete with what is read from Redis, for a second at most; pressing TAB never shows an error."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001 - click's
        with contextlib.suppress(errors.MutiraoError):
            items = read(ctx.params.get("broker_url"))
            return [item for item in items if item.value.startswith(incomplete)][:most]
        return []

    return complete


def served_models(broker_url: str | None) -> list[CompletionItem]:
    """Return the names of the models that workers have announced."""
    from mutirao.client.client import Client  # noqa: PLC0415 - only completion of a model needs it

    with Client(broker_url, timeout_s=COMPLETION_S) as client:
        return [CompletionItem(info.name) for info in client.models()]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001 - click's
    """Let the shell complete files."""
    return [CompletionItem(incomplete, type="file")]


def log_level(name: str, text: str) -> Callable[[Command], Command]:
    """Return the option of this name that chooses how much is logged."""
    levels = click.Choice(["debug", "info", "warning", "error"])
    return click.option(name, type=levels, default="info", show_default=True, help=text)


def joined(options: Iterable[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Join options that several commands share, in the order in which --help lists them."""

    def add(command: Command) -> Command:
        for option in reversed([*options]):
            command = option(command)
        return command

    return add


request = joined(
    (
        click.argument("model", metavar="MODEL", shell_complete=completion(served_models)),
        click.argument("text", metavar="DATA", shell_complete=files),
        click.option(
            "--output",
            "outputs",
            metavar="NAME",
            multiple=True,
            help="An output to return, repeatable; the model's default outputs if none is named.",
        ),
        click.option(
            "--parameter",
            "parameters",
            metavar="NAME=VALUE",
            multiple=True,
            help="A parameter that the model takes, repeatable: threshold=0.7.",
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
)
