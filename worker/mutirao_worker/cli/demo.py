"""`mutirao demo`: from nothing to real predictions, on this machine."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mutirao import Client, errors, settings
from mutirao.cli import console
from mutirao.embedded import Embedded
from mutirao.embedded.state_dir import StateDir

if TYPE_CHECKING:
    from mutirao_worker.demo import Outcome

TIMEOUT_S = 50.0


@click.command(epilog="Example: mutirao demo")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where it keeps its models and its Redis [default: ./.mutirao/demo].",
)
def demo(home: Path | None) -> None:
    """Fit four small models, start Redis and two workers, and submit every held-out row.

    Exits with 0 if every row was answered as the model itself answers.
    """
    from mutirao_worker import demo as samples  # noqa: PLC0415 - scikit-learn, which `mutirao --help` does without

    if home is None:
        StateDir(Path(settings.load().home)).prepare()
        home = Path(settings.load().home) / "demo"
    home = home.absolute()
    StateDir(home).prepare()
    models = home / "models"
    with _step("fit four models on data that scikit-learn ships, and add them to a repository"):
        fitted = samples.fit()
        samples.install(fitted, models)
    system = Embedded(home, workers=2, concurrency=1, models=models, flower=False)
    try:
        with _step("start a private Redis and two workers"):
            system.start()
            system.wait_ready(TIMEOUT_S)
        with _step("submit every held-out row as a request of its own, and wait for the answers"):
            outcomes = _submit(system, lambda client: samples.run(client, fitted, TIMEOUT_S))
    finally:
        with _step("end the workers and Redis"):
            system.close()
    _show(outcomes)
    _next(models)


def _submit(system: Embedded, run: Callable[[Client], list[Outcome]]) -> list[Outcome]:
    with Client(system.broker_url) as client:
        outcomes = run(client)
    if silent := {"worker1", "worker2"} - {name for outcome in outcomes for name in outcome.workers}:
        raise errors.MutiraoError(f"{', '.join(sorted(silent))} answered nothing: see {system.home.logs}")
    return outcomes


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    started = time.monotonic()
    with console.stderr.status(f"{what} ..."):
        yield
    console.console.print(f"[green]done[/] in {time.monotonic() - started:4.1f} s  {what}")


def _show(outcomes: Iterable[Outcome]) -> None:
    rows = []
    for outcome in outcomes:
        workers = ", ".join(f"{worker} {count}" for worker, count in outcome.workers.items())
        times = (f"{outcome.queued_s * 1e3:.0f} ms", f"{outcome.computed_s * 1e3:.1f} ms")
        rows.append((outcome.model, outcome.rows, workers, *times, f"{outcome.accuracy:.1%}"))
    console.console.print()
    console.table(("model", "rows", "answered by", "queued", "computed", "accuracy on held-out rows"), rows)
    total = sum(outcome.rows for outcome in outcomes)
    console.console.print(f"{total} answers, every one equal to the model's own. Times are medians of one row.\n")


def _next(models: Path) -> None:
    place = models.relative_to(Path.cwd()) if models.is_relative_to(Path.cwd()) else models
    console.console.print(f"Try next{console.escape(_path_hint())}:")
    for command in (
        f"mutirao up --models {shlex.quote(str(place))}",
        "mutirao predict iris '[[5.1, 3.5, 1.4, 0.2]]'                  (in another terminal, while that runs)",
        "mutirao submit iris '[[6.7, 3.0, 5.2, 2.3]]' --id first",
        "mutirao result first --wait",
    ):
        console.console.print(f"  [cyan]{console.escape(command)}[/]")


def _path_hint() -> str:
    """Return how to put mutirao on the path, where it was called as .venv/bin/mutirao."""
    script = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("mutirao") or not script.is_file():
        return ""
    shown = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script
    return f" (`source {shlex.quote(str(shown))}` puts mutirao on the path)"
