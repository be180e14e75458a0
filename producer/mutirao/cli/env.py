"""`mutirao env`: where the system of this folder is, for other programs."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mutirao import errors, settings
from mutirao.cli import console
from mutirao.cli.options import as_json


@click.command(epilog="Example: mutirao env")
@click.option(
    "--home",
    type=click.Path(file_okay=False),
    help="The folder of `mutirao up` [default: MUTIRAO_HOME or ./.mutirao].",
)
@as_json
def env(home: str | None, *, as_json: bool) -> None:
    """Print, for sh, the variables by which any program reaches the system of this folder: eval "$(mutirao env)".

    The URL holds the password of its Redis: it is for programs, not for logs. A MUTIRAO_BROKER_URL that is already set is ignored.
    """
    folder = home or settings.load(broker_url=settings.Settings().broker_url).home
    url = settings.embedded_broker_url(folder)
    if url is None:
        raise errors.BrokerUnavailable(
            f"no system runs in {Path(folder).resolve()}: start one with mutirao up, or name another folder with --home"
        )
    if as_json:
        console.emit_json({"MUTIRAO_BROKER_URL": url})
    else:
        click.echo(f"export MUTIRAO_BROKER_URL={shlex.quote(url)}")
