"""`make bench-backlog`: a long backlog, from its first request to its last: does anything grow with what waits? See docs/performance.md."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# Before numpy is first imported; see run.py.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import accounting
import click
import machine
import numpy as np
import redis
import workload
from contestant import Place
from contestants.this_system import CALL, ThisSystem
from rich.console import Console
from rich.table import Table
from slowlog import SlowLog
from summary import number

from mutirao import Client, Job, keyspace

PARTS = 10
# Results are read while they last, and do not pile up: Redis holds what was answered in so many seconds.
RESULT_TTL_S = 60
# Of each tenth so many answers are compared with the model's own.
SAMPLES = 100
# Rates and latencies that differ by less than this are the same: the machine's own noise.
NOISE = 1.4
STUCK_S = 300.0


@dataclass(frozen=True)
class Tenth:
    """What a tenth of the backlog took.

    Attributes:
        submitted_s: to submit it.
        served_s: to serve it.
        cpu_s: what worker and Redis spent meanwhile.
        reserve_us: of each reserve script, by Redis's clock.
        parent_mb, children_mb: resident memory of the worker when it was done.
        redis_mb: Redis's memory when it was done.
    """

    submitted_s: float
    served_s: float
    cpu_s: float
    reserve_us: list[int]
    parent_mb: float
    children_mb: float
    redis_mb: float


class Backlog(ThisSystem):
    """The same, its requests submitted before its workers start."""

    def env(self) -> Mapping[str, str]:
        return {**super().env(), "MUTIRAO_RESULT_TTL_S": str(RESULT_TTL_S)}

    def connect(self) -> None:
        """Wait for nothing: what the first worker does first is part of the measure."""

    def connect_client(self, count: int) -> None:
        """Open a client that needs no worker to submit."""
        self._outputs = [self.workload.output]
        self._client = Client(self.url, check=False, result_ttl_s=RESULT_TTL_S, queue_limit=count)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--requests", "count", type=click.IntRange(1_000), default=1_000_000, help="One-row iris requests.")
def main(count: int) -> None:
    """Submit requests while no worker runs, start a worker of two processes, and watch each tenth of the backlog go by.

    Ends with 1 if a sampled answer was lost or is not the model's own, or if anything is left in Redis's queues or reservations.
    """
    start = machine.description()
    console = Console()
    out = console if console.is_terminal else Console(width=100)
    with tempfile.TemporaryDirectory(prefix="mutirao-backlog-") as name:
        load = workload.iris(Path(name), "predict_proba")
        fleet = Backlog(load, Place(Path(name) / "fleet"))
        fleet.place.folder.mkdir()
        try:
            fleet.open()
            fleet.connect_client(count)
            server = redis.Redis.from_url(fleet.url)
            empty = _used(server)
            submitted, samples = _submit(fleet, count)
            full = _used(server)
            fleet.serve()
            tenths, wrong = _watch(fleet, server, count, submitted, samples)
            left = _left(server, load.name)
        finally:
            fleet.stop()
    out.print(_table(tenths, count // PARTS))
    for line in _verdicts(tenths):
        out.print(line)
    out.print(
        f"Redis: {(full - empty) / count:,.0f} bytes for each request that waits, its record included; "
        f"{full / 2**20:,.0f} MB before the first was served\n"
        f"answers compared: {PARTS * len(samples[0]):,}, lost or wrong: {wrong}; left in queues and reservations: {left}\n"
        f"{start['commit']}: {start['cores']} cores ({start['processor']}), Python {start['python']}, "
        f"{start['redis-server']}; load average {start['load_average'][0]:.1f} before, {os.getloadavg()[0]:.1f} after",
        soft_wrap=True,
    )
    sys.exit(1 if wrong or left else 0)


def _submit(fleet: Backlog, count: int) -> tuple[list[float], list[list[tuple[Job, int]]]]:
    """Submit it in calls of 10,000 or a tenth; return the seconds of each tenth, and of each a few jobs with their rows."""
    took, samples = [], []
    for _ in range(PARTS):
        seconds, some = 0.0, []
        for first in range(0, count // PARTS, CALL):
            chosen = fleet.workload.take(min(CALL, count // PARTS - first), first)
            began = time.perf_counter()
            jobs = fleet.submit(fleet.workload.rows[chosen])
            seconds += time.perf_counter() - began
            some += list(zip(jobs, chosen, strict=True))[:: max(1, count // PARTS // SAMPLES)]
        took.append(seconds)
        samples.append(some)
    return took, samples


def _watch(
    fleet: Backlog, server: redis.Redis, count: int, submitted: list[float], samples: list[list[tuple[Job, int]]]
) -> tuple[list[Tenth], int]:
    """Read the clocks as each tenth has left the queue, and compare a few of its answers."""
    key = keyspace.queue_key(fleet.workload.name, keyspace.step("normal"))
    log, tenths, wrong = SlowLog(server), [], 0
    _until(lambda: int(server.llen(key)) < count)  # type: ignore[arg-type]
    began, before = time.perf_counter(), accounting.cpu(fleet.workers(), fleet.redis())
    for part in range(1, PARTS + 1):
        due = count - part * (count // PARTS)
        _until(lambda due=due: int(server.llen(key)) <= due)  # type: ignore[misc, arg-type]
        ended, after = time.perf_counter(), accounting.cpu(fleet.workers(), fleet.redis())
        spent = after.since(before)
        parent, *children = (process.memory_info().rss / 2**20 for process in accounting.tree(fleet.workers()))
        reserve = log.taken().get("reserve", [])
        tenths.append(
            Tenth(
                submitted[part - 1],
                ended - began,
                spent.workers + spent.redis,
                reserve,
                parent,
                sum(children),
                _used(server) / 2**20,
            )
        )
        began, before = ended, after
        wrong += _wrong(fleet, samples[part - 1])
    return tenths, wrong


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STUCK_S
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"error: no tenth of the backlog was served within {STUCK_S:g} s")
        time.sleep(0.01)


def _wrong(fleet: Backlog, samples: Sequence[tuple[Job, int]]) -> int:
    answers = fleet.collect([job for job, _ in samples], timeout_s=30)
    came = [(answer, row) for answer, (_, row) in zip(answers, samples, strict=True) if answer is not None]
    unlike = fleet.workload.wrong([answer for answer, _ in came], [row for _, row in came]) if came else 0
    return len(samples) - len(came) + unlike


def _left(server: redis.Redis, model: str) -> int:
    """Count what is still queued, reserved or dead; what was just taken is answered within a moment."""
    deadline = time.monotonic() + 10.0
    while True:
        lists = [keyspace.queue_key(model, step) for step in keyspace.KOMBU_STEPS]
        held = list(server.scan_iter(keyspace.reserved_key("*"), count=100_000))
        left = sum(map(server.llen, lists)) + sum(map(server.hlen, held)) + server.hlen(keyspace.DEAD)  # type: ignore[arg-type, operator]
        if not left or time.monotonic() > deadline:
            return int(left)  # type: ignore[arg-type]
        time.sleep(0.1)


def _used(server: redis.Redis) -> int:
    return int(server.info("memory")["used_memory"])  # type: ignore[index]


def _table(tenths: Sequence[Tenth], requests: int) -> Table:
    table = Table(title=f"a backlog of {PARTS * requests:,}, by tenths", title_justify="left", title_style="bold")
    headings = ["tenth", "submit/s", "served/s", "CPU us\na request", "reserve\np10 ms", "p50 ms", "p99 ms"]
    headings += ["parent\nMB", "children\nMB", "Redis\nMB"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for at, one in enumerate(tenths, 1):
        reserve = np.percentile(one.reserve_us or [0], (10, 50, 99)) / 1000
        rates = [number(requests / seconds) for seconds in (one.submitted_s, one.served_s)]
        memory = [f"{value:,.0f}" for value in (one.parent_mb, one.children_mb, one.redis_mb)]
        cpu = f"{1e6 * one.cpu_s / requests:.0f}"
        table.add_row(str(at), *rates, cpu, *(f"{value:.2f}" for value in reserve), *memory)
    return table


def _verdicts(tenths: Sequence[Tenth]) -> list[str]:
    """Say whether the later tenths are as the earlier ones, without the very first: it holds the worker's start.

    Of reserve's latencies the lower ones are compared: those are the script's own, where nobody took its core meanwhile.
    """
    later = tenths[1:]
    half = len(later) // 2
    # Whether a smaller value is the better one.
    measures: dict[str, tuple[bool, Callable[[Tenth], float]]] = {
        "served/s": (False, lambda one: 1 / one.served_s),
        "CPU a request": (True, lambda one: one.cpu_s),
        "reserve p10": (True, lambda one: float(np.percentile(one.reserve_us or [0], 10))),
        "the worker's memory": (True, lambda one: one.parent_mb + one.children_mb),
    }
    said = []
    for name, (small, value) in measures.items():
        first, last = (median(map(value, some)) for some in (later[:half], later[-half:]))
        ratio = last / first if first else 1.0
        flat = (ratio if small else 1 / ratio) < NOISE
        said.append(f"{name}: {'flat' if flat else 'NOT flat'}, later tenths x{ratio:.2f} of earlier")
    return said


if __name__ == "__main__":
    main()
