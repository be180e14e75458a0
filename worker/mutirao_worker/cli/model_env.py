"""`mutirao models env`: how to serve a model with the libraries that saved it."""

from __future__ import annotations

import platform
import shlex

import click

from mutirao import errors
from mutirao.cli import console
from mutirao_worker.cli.repository_options import repository_options
from mutirao_worker.models.environments import environment
from mutirao_worker.models.repository import Repository


@click.command(
    short_help="Print the environment in which a model loads as it was saved.",
    epilog="Example: mutirao models env spam",
)
@click.argument("name")
@repository_options
def env(name: str, repository: Repository, *, as_json: bool) -> None:
    """Print how to install an environment in which the active version of model NAME loads as it was saved, and to start its worker there.

    Other workers leave the model's queue to that one.
    """
    manifest = repository.manifest(name)
    saved_with = [step.saved_with for step in manifest.version.steps if step.saved_with]
    if not saved_with:
        raise errors.RepositoryError(f"the manifest of {name} does not say what saved version {manifest.active}")
    needed = environment(saved_with)
    folder, own_python = f".venv-{manifest.name}", ".".join(platform.python_version_tuple()[:2])
    commands = [
        f"python{own_python if own_python in needed.pythons else needed.pythons[-1]} -m venv {folder}",
        shlex.join([f"{folder}/bin/pip", "install", ".[worker]", *needed.requirements]),
        shlex.join(
            [f"{folder}/bin/mutirao", "worker", "--models", str(repository.root.resolve()), "--only", manifest.name]
        ),
    ]
    if as_json:
        document = {"model": manifest.name, "version": manifest.active, "saved_with": saved_with, "commands": commands}
        console.emit_json(document | needed._asdict())
        return
    console.note(
        f"{manifest.name} version {manifest.active} was saved with {manifest.version.saved_with}: wheels for Python "
        f"{', '.join(needed.pythons)}; in the folder of mutirão's source"
    )
    for command in commands:
        click.echo(command)
