"""`make bench-budget`: where a request's CPU time goes, by process and by step. See docs/performance.md."""

from __future__ import annotations

import os
import pstats
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

# Before numpy is first imported; see run.py.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import accounting
import click
import joblib
import machine
import numpy as np
import psutil
import redis
import workload
from contestant import Place
from contestants.this_system import ThisSystem
from fleet import HERE
from rich.console import Console
from rich.table import Table
from slowlog import SlowLog

SCRIPTS = ("submit", "reserve", "prerun_check", "commit")


@dataclass(frozen=True)
class Burst:
    """One burst, in seconds of CPU but for `wall`; `scripts` are seconds too; `batches` is their number."""

    wall: float
    submit: float
    collect: float
    parent: float
    children: float
    redis: float
    scripts: dict[str, float]
    batches: int


class Profiled(ThisSystem):
    """The same, its worker's parent under a profile."""

    @property
    def profile(self) -> Path:
        return self.place.folder / "parent.prof"

    def commands(self) -> list[list[str]]:
        script = str(HERE / "profiled.py")
        return [[python, script, str(self.profile), *rest] for python, _, *rest in super().commands()]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rows", type=click.IntRange(1_000), default=workload.ROWS, help="Requests in a burst.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Bursts; the medians are shown.")
def main(rows: int, rounds: int) -> None:
    """Break down what one-row iris requests cost: microseconds of CPU for each, by process and by step."""
    start = machine.description()
    with tempfile.TemporaryDirectory(prefix="mutirao-budget-") as name:
        folder = Path(name)
        load = workload.iris(folder, "predict_proba")
        with _running(ThisSystem(load, Place(folder / "plain"))) as fleet:
            log = SlowLog(redis.Redis.from_url(fleet.url))
            bursts = [_burst(fleet, rows, log) for _ in range(rounds + 1)][1:]
        batch = max(1, round(rows / median(burst.batches for burst in bursts)))
        model = _model(load, batch)
        parent = _parent(load, folder, rows, rounds)
    console = Console()
    out = console if console.is_terminal else Console(width=100)
    out.print(_table(bursts, rows, model), _parent_table(parent, bursts, rows), sep="\n")
    wall = median(burst.wall for burst in bursts)
    out.print(
        f"{rows:,} requests a burst, medians of {rounds}; {rows / wall:,.0f} requests/s; {batch} requests a batch\n"
        f"{start['commit']}: {start['cores']} cores ({start['processor']}), Python {start['python']}, "
        f"{start['redis-server']}; load average {start['load_average'][0]:.1f} before, {os.getloadavg()[0]:.1f} after",
        soft_wrap=True,
    )


@contextmanager
def _running(fleet: ThisSystem) -> Iterator[ThisSystem]:
    fleet.place.folder.mkdir()
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()


def _burst(fleet: ThisSystem, rows: int, log: SlowLog) -> Burst:
    sent = fleet.workload.rows[fleet.workload.take(rows)]
    log.taken()
    before, began, client = _spent(fleet), time.perf_counter(), time.process_time()
    handles = fleet.submit(sent)
    submitted = time.process_time()
    answers = fleet.collect(handles, timeout_s=60)
    wall, collected = time.perf_counter() - began, time.process_time()
    time.sleep(0.15)  # events follow within this time
    after, scripts = _spent(fleet), log.taken()
    if lost := sum(answer is None for answer in answers):
        raise SystemExit(f"error: {lost} of {rows} requests were not answered")
    return Burst(
        wall=wall,
        submit=submitted - client,
        collect=collected - submitted,
        parent=after["parent"] - before["parent"],
        children=after["children"] - before["children"],
        redis=after["redis"] - before["redis"],
        scripts={name: _own(calls) for name, calls in scripts.items()},
        batches=len(scripts["commit"]),
    )


def _own(calls: list[int]) -> float:
    """Seconds of a script's calls. Redis's clock runs on while others have its core: the quarter least disturbed stands for all."""
    return float(len(calls) * np.percentile(calls, 25)) / 1e6


def _spent(fleet: ThisSystem) -> dict[str, float]:
    parent, *children = accounting.tree(fleet.workers())
    return {
        "parent": _cpu(parent),
        "children": sum(map(_cpu, children)),
        "redis": sum(_cpu(psutil.Process(pid)) for pid in fleet.redis()),
    }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _model(load: workload.Workload, batch: int) -> float:
    """Time the bare model's call for a batch: seconds for each of its rows."""
    predict = getattr(joblib.load(load.file), load.output)
    began = time.process_time()
    for _ in range(200):
        predict(load.rows[:batch])
    return (time.process_time() - began) / 200 / batch


def _parent(load: workload.Workload, folder: Path, rows: int, rounds: int) -> Counter[str]:
    """Profile the parent under bursts, less what starting and stopping takes: seconds by module."""
    loaded = _profiled(Profiled(load, Place(folder / "loaded")), lambda fleet: _bursts(fleet, rows, rounds))
    idle = _profiled(Profiled(load, Place(folder / "idle")), lambda _: None)
    return loaded - idle


def _bursts(fleet: ThisSystem, rows: int, rounds: int) -> None:
    for _ in range(rounds):
        fleet.collect(fleet.submit(fleet.workload.rows[fleet.workload.take(rows)]), timeout_s=120)


def _profiled(fleet: Profiled, work: Callable[[ThisSystem], None]) -> Counter[str]:
    with _running(fleet):
        work(fleet)
    return _by_module(pstats.Stats(str(fleet.profile)))


def _by_module(stats: Any) -> Counter[str]:
    """Add up each module's own time; a built-in function's belongs to whoever called it."""
    found: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in stats.stats.items():
        if file != "~":
            found[_module(file)] += own
        for (caller, _, _), (_, _, share, _) in callers.items() if file == "~" else ():
            found[_module(caller)] += share
    return found


def _module(file: str) -> str:
    """Name a module of ours by itself, any other by its package."""
    path = Path(file)
    for package in ("mutirao_worker", "mutirao"):
        if package in path.parts:
            inner = path.parts[len(path.parts) - path.parts[::-1].index(package) - 1 :]
            return ".".join(inner).removesuffix(".py")
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1]
    return "built-in" if file == "~" else "Python's library"


def _table(bursts: list[Burst], rows: int, model: float) -> Table:
    def us(value: Callable[[Burst], float]) -> float:
        return 1e6 * median(map(value, bursts)) / rows

    scripts = {name: us(lambda burst, name=name: burst.scripts.get(name, 0.0)) for name in SCRIPTS}  # type: ignore[misc]
    server, children = us(lambda burst: burst.redis), us(lambda burst: burst.children)
    part = min(1.0, server / sum(scripts.values()))
    lines = [
        ("client", "submit: check, encode, send", us(lambda burst: burst.submit)),
        ("client", "wait: read the reply channel, decode, hand out", us(lambda burst: burst.collect)),
        *(("Redis", f"script {name}", part * value) for name, value in scripts.items()),
        ("Redis", "the rest: reading, writing, events", server - part * sum(scripts.values())),
        ("worker, parent", "reserve, batch, commit, events: below", us(lambda burst: burst.parent)),
        ("worker, children", "the model's own call", model * 1e6),
        ("worker, children", "decode, stack, check, split, encode, pipe", children - model * 1e6),
    ]
    whole = sum(value for _, _, value in lines)
    table = Table(title="CPU of a one-row iris request", title_justify="left", title_style="bold")
    table.add_column("who")
    table.add_column("what")
    for heading in ("us a request", "share"):
        table.add_column(heading, justify="right")
    for who, what, value in lines:
        table.add_row(who, what, f"{value:.1f}", f"{value / whole:.0%}")
    table.add_row("all", "", f"{whole:.1f}", "100%", style="bold")
    return table


def _parent_table(found: Counter[str], bursts: list[Burst], rows: int) -> Table:
    parent, whole = 1e6 * median(burst.parent for burst in bursts) / rows, found.total()
    table = Table(title="of that the parent's, by module", title_justify="left", title_style="bold")
    table.add_column("module")
    for heading in ("us a request", "share"):
        table.add_column(heading, justify="right")
    shown = found.most_common(14)
    for name, seconds in [*shown, ("others", whole - sum(seconds for _, seconds in shown))]:
        table.add_row(name, f"{parent * seconds / whole:.1f}", f"{seconds / whole:.0%}")
    return table


if __name__ == "__main__":
    main()
