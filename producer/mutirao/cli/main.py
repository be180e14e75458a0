"""The root command: imports each subcommand at its first use, so that `mutirao status` never loads a model library."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
from importlib.metadata import entry_points

import click
from click.shell_completion import CompletionItem

from mutirao import errors
from mutirao.cli import console

# The light commands, and where they are.
LIGHT = {
    "cancel": "mutirao.cli.jobs:cancel",
    "dead": "mutirao.cli.dead_letters:dead",
    "doctor": "mutirao.cli.doctor:doctor",
    "env": "mutirao.cli.env:env",
    "explain": "mutirao.cli.explain:explain",
    "flower": "mutirao.cli.flower:flower",
    "gateway": "mutirao.cli.gateway:gateway",
    "keys": "mutirao.cli.api_keys:keys",
    "openapi": "mutirao.cli.gateway:openapi",
    "predict": "mutirao.cli.jobs:predict",
    "result": "mutirao.cli.jobs:result",
    "status": "mutirao.cli.jobs:status",
    "submit": "mutirao.cli.jobs:submit",
    "up": "mutirao.cli.up:up",
}
# The summaries in the list of commands, which is shown without importing any, and where only the light half is installed.
SUMMARIES = {
    "cancel": "Cancel jobs that still wait.",
    "dead": "List, show, replay and purge what could not be served.",
    "demo": "Fit four models, serve them with two workers, and ask.",
    "doctor": "Check the system; report each problem and its remedy.",
    "env": "Print the variables by which programs reach the system here.",
    "explain": "Show what happened to jobs, step by step.",
    "flower": "Show tasks and workers in a browser, with Flower.",
    "gateway": "Serve HTTP: requests, jobs, a console page.",
    "keys": "Add, list and revoke the API keys of the HTTP gateway.",
    "models": "Add, list, check and remove the models that workers serve.",
    "openapi": "Print the HTTP gateway's OpenAPI document.",
    "predict": "Send a request to a model and wait for its result.",
    "result": "Print the results of jobs.",
    "status": "Show the state of jobs.",
    "submit": "Queue a request and print its job's id.",
    "up": "Run Redis, workers, the gateway and Flower on this machine.",
    "webhooks": "Send webhooks for jobs that have ended.",
    "worker": "Run a worker that serves the models.",
}
# Options of many commands that none accepts before its name.
OF_COMMANDS = ("--broker-url", "--json")
EXTRAS = {
    "celery": "worker",
    "flower": "flower",
    "joblib": "worker",
    "kombu": "worker",
    "litestar": "gateway",
    "pandas": "worker",
    "prometheus_client": "gateway",
    "psutil": "worker",
    "sklearn": "worker",
    "threadpoolctl": "worker",
    "uvicorn": "gateway",
    "uvloop": "gateway",
}


class Commands(click.Group):
    """Finds subcommands here and among the entry points of the group `mutirao.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all subcommands, of both packages."""
        return sorted({*LIGHT, *(entry.name for entry in entry_points(group="mutirao.commands"))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load the subcommand of this name."""
        if place := LIGHT.get(cmd_name):
            module, _, name = place.partition(":")
            return _command(getattr(importlib.import_module(module), name))
        for entry in entry_points(group="mutirao.commands", name=cmd_name):
            return _command(entry.load())
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand, or suggest one of a similar name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            names = self.list_commands(ctx)
            near = difflib.get_close_matches(args[0], names, 1) or [name for name in names if name.startswith(args[0])]
            if not near:
                raise
            raise click.UsageError(f"{exc.message} Did you mean {near[0]!r}?", ctx) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES.get(name, "")) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a subcommand's name without loading any."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        found = [CompletionItem(name, help=SUMMARIES.get(name, "")) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def _command(found: object) -> click.Command:
    assert isinstance(found, click.Command)
    return found


EPILOG = """\b
Example: mutirao predict iris '[[5.1, 3.5, 1.4, 0.2]]'
Completion: eval "$(_MUTIRAO_COMPLETE=bash_source mutirao)" (or zsh_source, fish_source)
Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 unavailable, 5 timeout"""


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(package_name="mutirao", prog_name="mutirao")
def root() -> None:
    """Asynchronous model inference on Celery workers: submit requests, wait, read results."""


def main() -> None:
    """Run the command line: one line on stderr and a named exit code for every error."""
    _open_streams()
    sys.exit(_flushed(_run()))


def _open_streams() -> None:
    """Open closed standard streams on /dev/null, since a connection that took the descriptor of one would be written to."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)  # the least number that is free
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
            for each in (name, f"__{name}__"):  # Celery logs to the second
                setattr(sys, each, stream)


def _run() -> int:
    try:
        result = root.main(prog_name="mutirao", standalone_mode=False)
    except click.ClickException as exc:
        return _misused(exc)
    except (click.Abort, KeyboardInterrupt):
        return console.Exit.INTERRUPTED
    except errors.MutiraoError as exc:
        return console.fail(exc)
    except ModuleNotFoundError as exc:
        return _missing(exc)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        return _unwritable(exc)
    return result if isinstance(result, int) else console.Exit.OK


def _misused(exc: click.ClickException) -> int:
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        exc.show()
        return exc.exit_code
    command = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else ""
    console.complain(_plainly(exc) + (f" See: {command} --help" if command else ""))
    return exc.exit_code


def _plainly(exc: click.ClickException) -> str:
    """Reword click's messages for users, without its type names."""
    said = exc.format_message()
    for kind, plain in (("integer", "whole number"), ("float", "number")):
        said = said.replace(f"is not a valid {kind} range.", f"is not a {plain}.").replace(
            f"is not a valid {kind}.", f"is not a {plain}."
        )
    if isinstance(exc, click.NoSuchOption) and exc.option_name in OF_COMMANDS and exc.ctx and exc.ctx.parent is None:
        return f"{exc.option_name} belongs to a command: write it behind the command's name."
    return said


def _missing(exc: ModuleNotFoundError) -> int:
    extra = EXTRAS.get((exc.name or "").partition(".")[0])
    if extra is None:
        raise exc
    return console.fail(
        errors.MutiraoError(
            f"this command needs {exc.name}, which is not installed: pip install '.[{extra}]' in the folder of mutirão's source"
        )
    )


def _flushed(code: int) -> int:
    """Flush the output: a closed pipe or a full disk is reported here, not while Python exits."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        return code or _unwritable(exc)
    return code


def _unwritable(exc: OSError) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(exc, BrokenPipeError):
        console.complain(f"cannot write the output: {exc.strerror}")
    return console.Exit.FAILED
