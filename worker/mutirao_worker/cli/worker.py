"""`mutirao worker`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from mutirao import queues, settings
from mutirao.cli.options import broker

if TYPE_CHECKING:
    from celery import Celery


@click.command(epilog="Example: mutirao worker --concurrency 4 --models iris,forest")
@click.option(
    "--concurrency", "-c", type=click.IntRange(1), help="Predictions at once; the number of cores by default."
)
@click.option("--models", metavar="A,B", help="Serve only these models; all of the repository by default.")
@click.option(
    "--pool",
    type=click.Choice(["prefork", "solo", "threads"]),
    default="prefork",
    show_default=True,
    help="How predictions run side by side.",
)
@click.option("--name", "-n", help="The worker's name; celery@HOST by default.")
@click.option(
    "--events/--no-events",
    default=True,
    show_default=True,
    help="Publish task events, which Flower lives on; without, those who watch may still ask for them.",
)
@click.option("--repository", metavar="DIR", help="The model repository; MUTIRAO_MODELS, or ./models by default.")
@broker
@click.option(
    "--loglevel",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much it logs.",
)
def worker(
    concurrency: int | None,
    models: str | None,
    pool: str,
    name: str | None,
    events: bool,
    repository: str | None,
    broker_url: str | None,
    loglevel: str,
) -> None:
    """Answer predictions: the same as `celery -A mutirao_worker.app worker`."""
    given = settings.load(broker_url=broker_url, models=repository)
    os.environ.update(
        MUTIRAO_BROKER_URL=given.broker_url, MUTIRAO_RESULT_URL=given.result_url, MUTIRAO_MODELS=given.models
    )
    from mutirao_worker.app import app  # noqa: PLC0415 - reads the environment set above

    app.conf.worker_send_task_events = events
    argv = ["--quiet", "worker", f"--loglevel={loglevel}", f"--pool={pool}"]
    argv += [f"--concurrency={concurrency}"] if concurrency else []
    argv += [f"--queues={','.join(queues.queue(model.strip()) for model in models.split(','))}"] if models else []
    argv += [f"--hostname={name}"] if name else []
    run(app, argv)


def run(app: Celery, argv: Sequence[str]) -> NoReturn:
    """Run Celery's worker, and exit with its code, which Celery's `worker_main` drops: one that gave up must not look as if it was told to stop."""
    from celery.bin.celery import celery  # noqa: PLC0415 - Celery takes a moment

    celery.params[0].default = app
    sys.exit(celery.main(args=list(argv), standalone_mode=False))
