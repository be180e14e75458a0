"""The output of commands: tables, `--json`, questions, errors as one line on stderr, and named exit codes."""

from __future__ import annotations

import enum
import functools
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mutirao import errors, printable

if TYPE_CHECKING:
    from rich.console import Console

    console: Console
    stderr: Console

# Output that is not for a terminal is not cut to a screen's width.
ENDLESS = 100_000
# The longest id that a table shows on one line.
ID_WIDTH = 40


class Exit(enum.IntEnum):
    """The exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    TIMEOUT = 5
    INTERRUPTED = 130


CODES: dict[type[errors.MutiraoError], Exit] = {
    errors.ResultTimeout: Exit.TIMEOUT,
    errors.JobNotFound: Exit.NOT_FOUND,
    errors.KeyNotFound: Exit.NOT_FOUND,
    errors.ModelNotFound: Exit.NOT_FOUND,
    errors.BrokerUnavailable: Exit.UNAVAILABLE,
    errors.ModelUnavailable: Exit.UNAVAILABLE,
    errors.SettingsError: Exit.USAGE,
    errors.InvalidRequest: Exit.USAGE,
}


def __getattr__(name: str) -> Any:
    """Create `console` and `stderr` at first use: importing rich takes a fifth of the start of a small command."""
    if name not in {"console", "stderr"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _console(stderr=name == "stderr")


def terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def escape(text: str) -> str:
    """Return text that rich prints unchanged, without reading markup."""
    from rich.markup import escape  # noqa: PLC0415 - see __getattr__

    return escape(text)


def emit_json(value: Any) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; cells are text, never markup. Into a pipe: a line for each row, tabs between its cells, the names first."""
    if not terminal():
        for row in (columns, *rows):
            click.echo("\t".join(map(_cell, row)))
        return
    import rich.box  # noqa: PLC0415 - see __getattr__
    from rich.table import Table  # noqa: PLC0415

    shown = Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    rows = list(rows)
    for at, column in enumerate(columns):
        # An id is meant to be copied: other columns give way to it.
        whole = column == "id" and all(len(str(row[at])) <= ID_WIDTH for row in rows)
        shown.add_column(column, overflow="fold", no_wrap=whole)
    for row in rows:
        shown.add_row(*(escape(_cell(cell)) for cell in row))
    _console(stderr=False).print(shown)


def _cell(value: object) -> str:
    return printable.escaped(" ".join(str(value).split()))


def wrapped(text: str, first: str = "", rest: str = "", *, err: bool = False) -> str:
    """Lay text out for the screen's width, no word broken; one line where stdout is no terminal.

    Args:
        text: one paragraph.
        first: what the first line begins with.
        rest: what further lines begin with.
        err: for stderr, not for stdout.
    """
    if not (sys.stderr if err else sys.stdout).isatty():
        return first + text
    # One column is left free: a terminal may wrap a line that ends in its last one.
    width = max(40, shutil.get_terminal_size().columns - 1)
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest, **options)


def labelled(lines: Iterable[tuple[str, str]]) -> None:
    """Print texts, each behind its label."""
    for label, text in lines:
        click.echo(wrapped(text, f"{label:<9} ", " " * 10))


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: "no keys", "1 key", "2,000 keys"."""
    return f"{f'{count:,}' if count else 'no'} {noun}{'' if count == 1 else 's'}"


def note(text: str) -> None:
    """Print a note on stderr, so that pipes get the result alone."""
    click.echo(wrapped(text, err=True), err=True)


def confirm(question: str) -> None:
    """Ask a question on stderr.

    Raises:
        click.Abort: the answer is no, or there is none; what that means is printed.
    """
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as exc:
        if isinstance(exc.__context__, EOFError):
            click.echo(err=True)
            complain("nothing was removed: standard input holds no answer; --yes answers the question beforehand")
        raise
    if not agreed:
        note("nothing was removed")
        raise click.Abort


def fail(error: errors.MutiraoError) -> Exit:
    """Print an error as one line on stderr, and choose the exit code."""
    complain(str(error))
    return exit_of(error)


def each(ids: Iterable[str], act: Callable[[str], Exit | None]) -> Exit:
    """Run an action for each id, whether or not others fail; return the first exit code that is not 0."""
    codes = [_attempted(act, id) for id in ids]
    return next(filter(None, codes), Exit.OK)


def _attempted(act: Callable[[str], Exit | None], id: str) -> Exit:
    try:
        return act(id) or Exit.OK
    except errors.BrokerUnavailable:
        raise
    except errors.MutiraoError as exc:
        return fail(exc)


def complain(text: str) -> None:
    """Print one line on stderr that names the error; on a terminal, as many lines as it takes."""
    lines = wrapped(" ".join(text.split()), "error: ", err=True)
    click.echo(click.style("error:", fg="red", bold=True) + lines.removeprefix("error:"), err=True)


def exit_of(error: errors.MutiraoError) -> Exit:
    """Choose the exit code for an error, by the first class of the table that it belongs to."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), Exit.FAILED)


@functools.cache
def _console(*, stderr: bool) -> Console:
    from rich.console import Console  # noqa: PLC0415 - see __getattr__

    on_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(highlight=False, soft_wrap=True, stderr=stderr, width=None if on_terminal else ENDLESS)
