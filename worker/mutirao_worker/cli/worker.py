"""`mutirao worker`."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import billiard
import click
import msgspec
import psutil

from mutirao import errors, keyspace, settings
from mutirao.cli import console
from mutirao.cli.options import broker
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import RedisDriver
from mutirao.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

# For this long a starting worker asks which names are taken.
NAMING_S = 2.0


def free_name(configured: Settings) -> str:
    """Return a name that no live worker of this machine has: Flower and Celery's remote control go by names.

    Returns:
        "" for Celery's default one, also where Redis is away.
    """
    host = socket.gethostname()
    try:
        with contextlib.closing(
            RedisDriver(msgspec.structs.replace(configured, timeout_s=min(configured.timeout_s, NAMING_S)))
        ) as redis:
            workers = redis.run(RedisBackend(configured, check=False).catalog()).workers
    except errors.MutiraoError:
        return ""
    # The identity begins with the name in Celery; a worker that was killed seems alive until its lease expires.
    taken = {info.identity.rpartition("#")[0] or info.name for info in workers if psutil.pid_exists(info.pid)}
    if f"celery@{host}" not in taken:
        return ""
    return next(name for number in itertools.count(2) if (name := f"celery{number}@{host}") not in taken)


@click.command(epilog="Example: mutirao worker --concurrency 4 --only iris,forest")
@click.option(
    "--concurrency", "-c", type=click.IntRange(1), help="Predictions at a time; the number of cores by default."
)
@click.option("--models", metavar="DIR", help="The model repository; MUTIRAO_MODELS, or ./models by default.")
@click.option("--only", metavar="A,B", help="Serve only these models; all of the repository by default.")
@click.option(
    "--pool",
    type=click.Choice(["prefork", "solo", "threads"]),
    default="prefork",
    show_default=True,
    help="How predictions run concurrently.",
)
@click.option(
    "--max-batches-per-process",
    type=click.IntRange(0),
    metavar="N",
    help="Replace a process after this many batches; 0, the default, for never.",
)
@click.option(
    "--max-memory-per-process",
    type=click.IntRange(0),
    metavar="BYTES",
    help="Replace a process whose resident memory, the models' shared pages included, is larger; 0, the default, for never.",
)
@click.option("--name", "-n", help="The worker's name; celery@HOST by default, or celery2@HOST where that one runs.")
@click.option(
    "--events/--no-events",
    default=True,
    show_default=True,
    help="Publish task events, which Flower lives on; without, those who watch may still ask for them.",
)
@click.option("--repository", metavar="DIR", hidden=True)
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
    only: str | None,
    pool: str,
    max_batches_per_process: int | None,
    max_memory_per_process: int | None,
    name: str | None,
    events: bool,
    repository: str | None,
    broker_url: str | None,
    loglevel: str,
) -> None:
    """Answer predictions: the same as `celery -A mutirao_worker.app worker`."""
    if pool == "prefork":
        _share_memory()
    if repository is not None:
        console.note("--repository is called --models now")
    if only is None and models is not None and _are_model_names(models, settings.load(models=repository).models):
        console.note(f"--models is the repository's folder now: for models by name, write --only {models}")
        models, only = None, models
    given = settings.load(
        broker_url=broker_url,
        models=models or repository,
        max_batches_per_process=max_batches_per_process,
        max_memory_per_process=max_memory_per_process,
    )
    passed = ("broker_url", "result_url", "models", "max_batches_per_process", "max_memory_per_process")
    os.environ.update({settings.PREFIX + name.upper(): str(getattr(given, name)) for name in passed})
    from mutirao_worker.app import app  # noqa: PLC0415 - reads the environment set above

    name = name or free_name(given)
    app.conf.worker_send_task_events = events
    argv = ["--quiet", "worker", f"--loglevel={loglevel}", f"--pool={pool}"]
    argv += [f"--concurrency={concurrency}"] if concurrency else []
    argv += [f"--queues={','.join(keyspace.queue(model.strip()) for model in only.split(','))}"] if only else []
    argv += [f"--hostname={name}"] if name else []
    run(app, argv)


def _share_memory() -> None:
    """Refuse to start where processes cannot share what Celery's pool of processes needs."""
    try:
        billiard.Lock()
    except OSError as exc:
        said = f"processes cannot share memory here: {exc.strerror or exc}"
        raise errors.SettingsError(f"{said}; make /dev/shm writable, or use --pool threads") from exc


def run(app: Celery, argv: Sequence[str]) -> NoReturn:
    """Run Celery's worker, and exit with its code, which Celery's `worker_main` drops: a worker that gave up must not look as if it was stopped."""
    from celery.bin.celery import celery  # noqa: PLC0415 - Celery takes a moment

    celery.params[0].default = app
    sys.exit(celery.main(args=list(argv), standalone_mode=False))


def _are_model_names(value: str, repository: str) -> bool:
    """Whether this is what --models once took, names of models: there is no such folder, and there are such models."""
    parts = [part.strip() for part in value.split(",")]
    known = all(part and (Path(repository) / part / "model.toml").is_file() for part in parts)
    return known and not Path(value).is_dir()
