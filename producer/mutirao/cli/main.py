"""The root command: looks each subcommand up when it is asked for, so that `mutirao status` never loads a model library."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points

import click

from mutirao import errors
from mutirao.cli import output

# The light commands, and where they are.
LIGHT = {
    "cancel": "mutirao.cli.jobs:cancel",
    "doctor": "mutirao.cli.doctor:doctor",
    "flower": "mutirao.cli.flower:flower",
    "predict": "mutirao.cli.jobs:predict",
    "result": "mutirao.cli.jobs:result",
    "status": "mutirao.cli.jobs:status",
    "submit": "mutirao.cli.jobs:submit",
    "up": "mutirao.cli.up:up",
}
EXTRAS = {
    "celery": "worker",
    "flower": "flower",
    "joblib": "worker",
    "kombu": "worker",
    "pandas": "worker",
    "psutil": "worker",
    "sklearn": "worker",
    "threadpoolctl": "worker",
}


class Commands(click.Group):
    """Finds subcommands here and among the entry points of the group `mutirao.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Name every subcommand, light or heavy."""
        return sorted([*LIGHT, *(entry.name for entry in entry_points(group="mutirao.commands"))])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load the subcommand of this name."""
        if place := LIGHT.get(cmd_name):
            module, _, name = place.partition(":")
            return _command(getattr(importlib.import_module(module), name))
        for entry in entry_points(group="mutirao.commands", name=cmd_name):
            return _command(entry.load())
        return None


def _command(found: object) -> click.Command:
    assert isinstance(found, click.Command)
    return found


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='Completion: eval "$(_MUTIRAO_COMPLETE=bash_source mutirao)" (or zsh_source, fish_source)',
)
@click.version_option(package_name="mutirao", prog_name="mutirao")
def root() -> None:
    """Ask a fleet of Celery workers for predictions: submit, wait, read the result."""


def main() -> None:
    """Run the command line: one line on stderr and a named exit code for every error."""
    sys.exit(_run())


def _run() -> int:
    try:
        result = root.main(prog_name="mutirao", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return output.Exit.INTERRUPTED
    except errors.MutiraoError as exc:
        return output.fail(exc)
    except ModuleNotFoundError as exc:
        return _missing(exc)
    except BrokenPipeError:
        return output.Exit.FAILED
    return result if isinstance(result, int) else output.Exit.OK


def _missing(exc: ModuleNotFoundError) -> int:
    extra = EXTRAS.get((exc.name or "").partition(".")[0])
    if extra is None:
        raise exc
    return output.fail(
        errors.MutiraoError(f"this command needs {exc.name}, which is not installed: pip install 'mutirao[{extra}]'")
    )
