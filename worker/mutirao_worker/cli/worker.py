"""`mutirao worker`."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import billiard
import click
import msgspec
import psutil

from mutirao import errors, keyspace, settings
from mutirao.cli import console
from mutirao.cli.options import broker, log_level
from mutirao.cli.redis_store import connected
from mutirao.client.redis_backend import RedisBackend
from mutirao.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

# A starting worker asks for at most this long which names are taken.
NAMING_S = 2.0


def free_name(configured: Settings) -> str:
    """Return a name that no live worker of this machine has: Flower and Celery's remote control tell workers apart by their names.

    Returns:
        "" for Celery's default one, also where Redis does not answer.
    """
    host = socket.gethostname()
    briefly = msgspec.structs.replace(configured, timeout_s=min(configured.timeout_s, NAMING_S))
    try:
        with connected(briefly, lambda settings: RedisBackend(settings, check=False)) as (redis, backend):
            workers = redis.run(backend.catalog()).workers
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
    help="Publish task events, from which Flower shows tasks; without, a monitor can still switch them on.",
)
@click.option("--repository", metavar="DIR", hidden=True)
@broker
@log_level("--loglevel", "How much it logs.")
def worker(
    *,
    concurrency: int | None,
    models: str | None,
    only: str | None,
    pool: str,
    name: str | None,
    events: bool,
    repository: str | None,
    loglevel: str,
    **overrides: Any,
) -> None:
    """Answer predictions: the same as `celery -A mutirao_worker.app worker`."""
    if pool == "prefork":
        _check_shared_memory()
    if repository is not None:
        console.note("--repository is called --models now")
    if only is None and models is not None and _are_model_names(models, settings.load(models=repository).models):
        console.note(f"--models is the repository's folder now: for models by name, write --only {models}")
        models, only = None, models
    configured = settings.load(models=models or repository, **overrides)
    exported = ("result_url", "models", *overrides)
    os.environ.update({settings.PREFIX + key.upper(): str(getattr(configured, key)) for key in exported})
    from mutirao_worker.app import app  # noqa: PLC0415 - reads the environment set above

    name = name or free_name(configured)
    app.conf.worker_send_task_events = events
    argv = ["--quiet", "worker", f"--loglevel={loglevel}", f"--pool={pool}"]
    argv += [f"--concurrency={concurrency}"] if concurrency else []
    argv += [f"--queues={','.join(keyspace.queue(model.strip()) for model in only.split(','))}"] if only else []
    argv += [f"--hostname={name}"] if name else []
    run(app, argv)


def _check_shared_memory() -> None:
    """Refuse to start where processes cannot share what Celery's pool of processes needs."""
    try:
        billiard.Lock()
    except OSError as exc:
        reason = f"processes cannot share memory here: {exc.strerror or exc}"
        raise errors.SettingsError(f"{reason}; make /dev/shm writable, or use --pool threads") from exc


def run(app: Celery, argv: Sequence[str]) -> NoReturn:
    """Run Celery's worker, and exit with its code, which Celery's `worker_main` drops: a worker that gave up must not exit like one that was stopped."""
    from celery.bin.celery import celery  # noqa: PLC0415 - Celery takes a moment

    celery.params[0].default = app
    sys.exit(celery.main(args=list(argv), standalone_mode=False))


def _are_model_names(value: str, repository: str) -> bool:
    """Whether this is what --models once took, names of models: there is no such folder, and there are such models."""
    names = [name.strip() for name in value.split(",")]
    all_exist = all(name and (Path(repository) / name / "model.toml").is_file() for name in names)
    return all_exist and not Path(value).is_dir()
