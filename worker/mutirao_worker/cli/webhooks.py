"""`mutirao webhooks`."""

from __future__ import annotations

import os
import socket

import click

from mutirao import errors, settings, webhook_policy
from mutirao.cli.options import broker, log_level
from mutirao_worker.cli.worker import run


@click.command(epilog="Example: mutirao webhooks --hosts crm.example.com")
@click.option("--threads", type=click.IntRange(2, 1024), default=64, show_default=True, help="Deliveries at a time.")
@click.option("--hosts", metavar="A,B", help="The hosts that may be called; MUTIRAO_WEBHOOK_HOSTS by default.")
@click.option("--name", "-n", help="The worker's name; webhooks@HOST by default.")
@broker
@log_level("--loglevel", "How much it logs.")
def webhooks(threads: int, hosts: str | None, name: str | None, broker_url: str | None, loglevel: str) -> None:
    """Send webhooks for jobs that have ended: a Celery worker that loads no model.

    When a job that was submitted with a webhook ends, it is POSTed there, signed with MUTIRAO_WEBHOOK_SECRET, and again for most of a
    day while the receiver does not accept it. Any number of these may run.
    """
    loaded = settings.load(broker_url=broker_url, webhook_hosts=hosts).direct()
    if not webhook_policy.allowed_hosts(loaded.webhook_hosts):
        raise errors.SettingsError(
            "MUTIRAO_WEBHOOK_HOSTS is empty, so webhooks are off: name the hosts that may be called, such as crm.example.com",
            key="MUTIRAO_WEBHOOK_HOSTS",
        )
    os.environ.pop("MUTIRAO_WEBHOOK_SECRET", None)
    name = name or f"webhooks@{socket.gethostname()}"
    from mutirao_worker.webhooks.app import make  # noqa: PLC0415 - Celery takes a moment

    argv = ["--quiet", "worker", f"--loglevel={loglevel}", "--pool=threads", f"--concurrency={threads}"]
    run(make(loaded, threads, name), [*argv, f"--hostname={name}", "--without-mingle", "--without-gossip"])
