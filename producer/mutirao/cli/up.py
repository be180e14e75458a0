"""`mutirao up`: a whole system on this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.markup import escape

from mutirao import errors, settings
from mutirao.cli import console
from mutirao.embedded import ChildExit, Embedded
from mutirao.registry import Registry

READY_S = 120.0


@click.command(epilog="Example: mutirao up --workers 2 --models ./models")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Worker processes, each with its own children.",
)
@click.option("--concurrency", type=click.IntRange(1, 256), help="Predictions at a time in each worker.")
@click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    help="The model repository [default: MUTIRAO_MODELS or ./models].",
)
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data, logs, passwords [default: MUTIRAO_HOME or ./.mutirao].",
)
@click.option("--flower/--no-flower", default=True, help="Run Flower, Celery's monitor; its password is printed.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Redis's port [default: that of the last run, or any that is free]."
)
@click.option(
    "--flower-port", type=click.IntRange(1, 65535), help="Flower's port [default: 5555, or any that is free]."
)
@click.option("--gateway/--no-gateway", default=True, help="Run the HTTP gateway and its console, for this machine.")
@click.option(
    "--gateway-port",
    type=click.IntRange(0, 65535),
    envvar="MUTIRAO_GATEWAY_PORT",
    show_envvar=True,
    help="The gateway's port [default: 8000, or any that is free].",
)
def up(*, models: Path | None, home: Path | None, flower: bool, gateway: bool, **options: Any) -> None:
    """Run Redis, workers, the HTTP gateway and Flower on this machine, without Docker or root.

    Everything listens on this machine only. Ctrl-C ends it: workers finish the batches that they run. Queued requests stay in the
    folder, and the next `up` there serves them.
    """
    _refuse_empty(Path(settings.load(models=None if models is None else str(models)).models))
    started = time.monotonic()
    system = Embedded(home, models=models, flower=flower, gateway=gateway, report=_report_exit, **options)
    with _until_interrupted(system):
        with console.stderr.status("starting Redis and the workers ..."):
            system.start()
            system.wait_ready(READY_S)
        _banner(system, time.monotonic() - started)
        for wanted, url, what, extra in (
            (flower, system.flower_url, "Flower", "flower"),
            (gateway, system.gateway_url, "the HTTP gateway", "gateway"),
        ):
            if wanted and not url:
                console.note(
                    f"{what} is not installed, so it does not run: pip install '.[{extra}]' in the folder of mutirão's source"
                )
        while True:
            system.check()
            time.sleep(0.2)


def _refuse_empty(models: Path) -> None:
    """Refuse a folder without models at once, as each worker would once its libraries are loaded."""
    if not any(models.glob("*/model.toml")):
        raise errors.EmbeddedError(
            f"there is no model in {models.resolve()}: add one with `mutirao models add NAME FILE`, or name another folder with --models"
        )


@contextlib.contextmanager
def _until_interrupted(system: Embedded) -> Iterator[None]:
    """Run until Ctrl-C, a service manager's SIGTERM or a closed terminal's SIGHUP, and end the system whatever happens.

    The first signal ends the run, with exit code 0. A later one does not interrupt the shutdown, which stays in order: it only kills
    the processes that the shutdown waits for. Once all have ended, signals are ignored, so that the exit code stays 0.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ending = False

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        nonlocal ending
        if ending:
            system.kill()
        else:
            ending = True
            raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        ending = True
        _end(system)
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def _end(system: Embedded) -> None:
    if system.started:
        console.note("ending: workers finish what they compute (at most 20 s; Ctrl-C again does not wait) ...")
    system.close()
    if system.started:
        console.note("ended. What is queued stays; `mutirao up` goes on with it.")


def _report_exit(child_exit: ChildExit) -> None:
    console.stderr.print(f"[yellow]{time.strftime('%H:%M:%S')}[/] {escape(str(child_exit))}")


def _banner(system: Embedded, took_s: float) -> None:
    console.console.print(
        f"[bold green]mutirão is up[/] after {took_s:.1f} s, in {escape(str(system.home.path))} (process {os.getpid()})\n"
    )
    for part, text in _parts(system):
        console.console.print(f"  [bold]{part:<8}[/] {escape(text)}")
    console.console.print(f"\nIn another terminal{_where(system)}:")
    for command in _hints(system):
        console.console.print(f"  [cyan]{escape(command)}[/]")
    console.console.print("\nCtrl-C ends it; what is queued stays.")
    if url := os.environ.get("MUTIRAO_BROKER_URL"):
        console.note(
            f"MUTIRAO_BROKER_URL is set here, to {settings.without_password(url)}: commands use that Redis, not this one, until it is unset"
        )


def _parts(system: Embedded) -> Iterator[tuple[str, str]]:
    registry = system.fleet()
    yield "Redis", f"127.0.0.1:{system.server.port}, {system.binary}, every change logged"
    for worker in registry.workers:
        yield "Worker", f"{worker.name}, {worker.processes} at a time"
    yield "Models", f"{_models(registry)}, in {system.settings.models}"
    if system.gateway_url:
        yield "Console", f"{system.gateway_url} (the API is described at {system.gateway_url}/docs)"
        yield from _moved(system, system.gateway_url)
    if system.flower_url:
        yield "Flower", f"{system.flower_url}, user {system.flower_user}, password {system.flower_password}"
        yield from _moved(system, system.flower_url)
    if system.settings.webhook_hosts:
        yield "Webhooks", f"to {system.settings.webhook_hosts}"
    yield "Logs", f"{system.home.logs}: {', '.join(f'{name}.log' for name in system.pids)}"


def _moved(system: Embedded, url: str) -> Iterator[tuple[str, str]]:
    if port := system.moved_from.get(url):
        yield "", f"port {port} is another program's here: use {url}"


def _models(registry: Registry) -> str:
    states = [(name, info.state) for name, info in registry.expected().items()]
    ready = [name for name, state in states if state == "ready"]
    rest = f" and {len(states) - len(ready)} unavailable" if len(ready) < len(states) else ""
    return (", ".join(ready) or "none yet") + rest


def _hints(system: Embedded) -> Iterator[str]:
    models = system.fleet().expected()
    if not models:
        yield "mutirao models add NAME model.joblib"
    yield "mutirao models list"
    if "iris" in models:
        yield "mutirao predict iris '[[5.1, 3.5, 1.4, 0.2]]'"
    yield "mutirao doctor"


def _where(system: Embedded) -> str:
    """Return how a command elsewhere finds this system; commands look into ./.mutirao by themselves."""
    if system.home.path == (Path.cwd() / settings.Settings().home).resolve():
        return ", in this folder"
    return f", with export MUTIRAO_HOME={shlex.quote(str(system.home.path))}"
