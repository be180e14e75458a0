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

# Each command's place, "" where mutirao_worker registers it, and its summary: the list of commands is shown without importing any.
COMMANDS = {
    "cancel": ("mutirao.cli.jobs:cancel", "Cancel jobs that still wait."),
    "dead": ("mutirao.cli.dead_letters:dead", "List, show, replay and purge what could not be served."),
    "demo": ("", "Fit four models, serve them with two workers, and send requests."),
    "doctor": ("mutirao.cli.doctor:doctor", "Check the system; report each problem and its remedy."),
    "env": ("mutirao.cli.env:env", "Print the variables by which programs reach the system here."),
    "explain": ("mutirao.cli.explain:explain", "Show what happened to jobs, step by step."),
    "flower": ("mutirao.cli.flower:flower", "Show tasks and workers in a browser, with Flower."),
    "gateway": ("mutirao.cli.gateway:gateway", "Serve HTTP: requests, jobs, a console page."),
    "keys": ("mutirao.cli.api_keys:keys", "Add, list and revoke the API keys of the HTTP gateway."),
    "models": ("", "Add, list, check and remove the models that workers serve."),
    "openapi": ("mutirao.cli.gateway:openapi", "Print the HTTP gateway's OpenAPI document."),
    "predict": ("mutirao.cli.jobs:predict", "Send a request to a model and wait for its result."),
    "result": ("mutirao.cli.jobs:result", "Print the results of jobs."),
    "status": ("mutirao.cli.jobs:status", "Show the state of jobs."),
    "submit": ("mutirao.cli.jobs:submit", "Queue a request and print its job's id."),
    "up": ("mutirao.cli.up:up", "Run Redis, workers, the gateway and Flower on this machine."),
    "webhooks": ("", "Send webhooks for jobs that have ended."),
    "worker": ("", "Run a worker that serves the models."),
}
# Options of many commands, which are not accepted before the command's name.
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
        own = (name for name, (place, _) in COMMANDS.items() if place)
        return sorted({*own, *(entry.name for entry in entry_points(group="mutirao.commands"))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load the subcommand of this name."""
        if place := COMMANDS.get(cmd_name, ("", ""))[0]:
            module, _, name = place.partition(":")
            return _command(getattr(importlib.import_module(module), name))
        entries = entry_points(group="mutirao.commands", name=cmd_name)
        return next((_command(entry.load()) for entry in entries), None)

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
            formatter.write_dl([(name, _summary(name)) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a subcommand's name without loading any."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=_summary(name)) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)


def _summary(name: str) -> str:
    return COMMANDS.get(name, ("", ""))[1]


def _command(loaded: object) -> click.Command:
    assert isinstance(loaded, click.Command)
    return loaded


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
    try:
        _open_streams()
        code = _flushed(_run())
    except KeyboardInterrupt:
        code = console.Exit.INTERRUPTED
    sys.exit(code)


def _open_streams() -> None:
    """Open closed standard streams on /dev/null: a connection that took the descriptor of one would be written to."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the least number that is free
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
            for attribute in (name, f"__{name}__"):  # Celery logs to the second
                setattr(sys, attribute, stream)


def _run() -> int:
    try:
        result = root.main(prog_name="mutirao", standalone_mode=False)
    except click.ClickException as exc:
        return _fail_usage(exc)
    except click.Abort:
        return console.Exit.INTERRUPTED
    except errors.MutiraoError as exc:
        return console.fail(exc)
    except ModuleNotFoundError as exc:
        return _fail_missing(exc)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        return _fail_output(exc)
    return result if isinstance(result, int) else console.Exit.OK


def _fail_usage(exc: click.ClickException) -> int:
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        exc.show()
        return exc.exit_code
    command = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else ""
    console.complain(_plain_message(exc) + (f" See: {command} --help" if command else ""))
    return exc.exit_code


def _plain_message(exc: click.ClickException) -> str:
    """Return click's message without its type names."""
    message = exc.format_message()
    for kind, plain in (("integer", "whole number"), ("float", "number")):
        message = message.replace(f"is not a valid {kind} range.", f"is not a {plain}.").replace(
            f"is not a valid {kind}.", f"is not a {plain}."
        )
    if isinstance(exc, click.NoSuchOption) and exc.option_name in OF_COMMANDS and exc.ctx and exc.ctx.parent is None:
        return f"{exc.option_name} belongs to a command: write it after the command's name."
    return message


def _fail_missing(exc: ModuleNotFoundError) -> int:
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
        return code or _fail_output(exc)
    return code


def _fail_output(exc: OSError) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(exc, BrokenPipeError):
        console.complain(f"cannot write the output: {exc.strerror}")
    return console.Exit.FAILED
