"""`mutirao flower`: Celery's monitor over this system, behind a password, read-only."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys

import click
import redis
from rich.markup import escape

from mutirao import errors, settings
from mutirao.cli import console
from mutirao.embedded.redis_server import chosen_port
from mutirao.embedded.system import FLOWER_PORT
from mutirao.redisdb.connection import connect
from mutirao.urls import is_loopback

USER = "mutirao"
# Not `exception`, which may quote a model: Flower 2.2 puts that column into the page as HTML. The task's page escapes it.
COLUMNS = "name,args,state,runtime,worker,received,uuid"


@click.command(epilog="Example: mutirao flower --port 5555")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Where the page is served [default: 5555, or any that is free]."
)
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; beyond loopback only with a password of your own.",
)
@click.option(
    "--password",
    help=f"For the user {USER!r}; generated and printed if none is given. FLOWER_BASIC_AUTH=user:password does the same, unseen by `ps`.",
)
@click.option("--control", is_flag=True, help="Let the page change things too: shut workers down, revoke tasks.")
def flower(port: int | None, address: str, password: str | None, *, control: bool) -> None:
    """Show tasks and workers in a browser, with Flower.

    Shows for each prediction its model, shape, state, runtime and worker, and for a failed one the reason. Nothing is shown without
    the password, and nothing can be changed without --control.
    """
    if importlib.util.find_spec("flower") is None:
        raise errors.MutiraoError("Flower is not installed: pip install '.[flower]' in the folder of mutirão's source")
    configured = settings.load()
    auth = f"{USER}:{password}" if password is not None else os.environ.get("FLOWER_BASIC_AUTH")
    if is_generated := auth is None:
        _refuse_unguarded(address)
        auth = f"{USER}:{secrets.token_urlsafe(12)}"
    _check(auth)
    port = chosen_port(port, FLOWER_PORT, "--port", address)
    _print_address(address, port, auth if is_generated else "")
    url = configured.result_url if configured.uses_amqp else configured.broker_url
    if not answers(url, configured):
        console.note(f"Redis does not answer at {settings.without_password(url)} yet: Flower keeps trying")
    env = os.environ | {
        "MUTIRAO_BROKER_URL": configured.broker_url,
        "MUTIRAO_RESULT_URL": configured.result_url,
        "FLOWER_BASIC_AUTH": auth,
        "FLOWER_READ_ONLY": str(not control).lower(),
        "FLOWER_TASKS_COLUMNS": os.environ.get("FLOWER_TASKS_COLUMNS", COLUMNS),
    }
    celery = [sys.executable, "-m", "celery", "-A", "mutirao_worker.app"]
    sys.stdout.flush()
    os.execve(sys.executable, [*celery, "flower", f"--port={port}", f"--address={address}"], env)  # noqa: S606 - no shell is wanted


def _check(auth: str) -> None:
    """Refuse passwords that Flower misreads: it takes an empty one, and splits at commas."""
    for pair in auth.split(","):
        user, _, password = pair.partition(":")
        if not user or not password:
            raise errors.SettingsError(
                "FLOWER_BASIC_AUTH (or --password) must be user:password, without a comma in the password, and neither may be empty",
                key="FLOWER_BASIC_AUTH",
            )


def _refuse_unguarded(address: str) -> None:
    if not is_loopback(address):
        raise errors.SettingsError(
            f"--address {address!r} is reached from other machines: give --password or FLOWER_BASIC_AUTH=user:password",
            key="--address",
            value=address,
        )


def _print_address(address: str, port: int, generated_auth: str) -> None:
    """Print where Flower is, and the password if it was generated here."""
    host = f"[{address}]" if ":" in address else address or "0.0.0.0"  # noqa: S104 - shown, not bound
    user, _, password = generated_auth.partition(":")
    secret = f"  user [bold]{user}[/]  password [bold]{password}[/]" if generated_auth else ""
    console.console.print(f"Flower: [bold]http://{escape(host)}:{port}[/]{secret}")


def answers(url: str, configured: settings.Settings) -> bool:
    """Whether Redis answers now; Flower starts in any case: a monitor may be there before what it watches."""
    try:
        with connect(url, configured, socket_connect_timeout=1, socket_timeout=1, retry=None) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
