"""How commands speak: tables for people, `--json` for scripts, errors as one line on stderr, and a named exit code."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import rich.box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mutirao import errors

console = Console(highlight=False, soft_wrap=True)
stderr = Console(highlight=False, soft_wrap=True, stderr=True)


class Exit(enum.IntEnum):
    """What the exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    TIMEOUT = 5
    INTERRUPTED = 130


def emit_json(value: Any) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; cells are text, never markup."""
    shown = Table(*columns, title=title, box=rich.box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for row in rows:
        shown.add_row(*(escape(str(cell)) for cell in row))
    console.print(shown)


def note(text: str) -> None:
    """Say something beside the result, on stderr, so that pipes get the result alone."""
    stderr.print(escape(text))


def fail(error: errors.MutiraoError) -> Exit:
    """Print an error as one line on stderr, and choose the exit code."""
    stderr.print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}")
    return exit_of(error)


def exit_of(error: errors.MutiraoError) -> Exit:
    """Choose the exit code for an error, by the first class of the table that it belongs to."""
    table_ = {
        errors.ResultTimeout: Exit.TIMEOUT,
        errors.JobNotFound: Exit.NOT_FOUND,
        errors.ModelNotFound: Exit.NOT_FOUND,
        errors.BrokerUnavailable: Exit.UNAVAILABLE,
        errors.ModelUnavailable: Exit.UNAVAILABLE,
        errors.SettingsError: Exit.USAGE,
        errors.InvalidRequest: Exit.USAGE,
    }
    return next((code for kind, code in table_.items() if isinstance(error, kind)), Exit.FAILED)
