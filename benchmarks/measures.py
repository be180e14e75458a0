"""The measures, taken in the client's process around one contestant. Each answer is compared with the model's own."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import accounting
import numpy as np
from contestant import Contestant
from workload import WITNESS, Workload

# Whoever tells of what was done does so within this time: it is part of what the burst cost.
TOLD_S = 0.15


@dataclass(frozen=True)
class Burst:
    """Many one-row requests at once.

    Attributes:
        total_s: until the last answer was in the client's hands.
        machine_cpu_s: what everybody on the machine spent meanwhile.
        settled_s: how long after the last answer all was quiet.
    """

    rows: int
    total_s: float
    client_cpu_s: float
    workers_cpu_s: float
    redis_cpu_s: float
    machine_cpu_s: float
    settled_s: float
    lost: int
    wrong: int


@dataclass(frozen=True)
class Submission:
    """Many one-row requests handed over while the workers are held still: client and Redis alone."""

    rows: int
    submit_s: float
    lost: int
    wrong: int


@dataclass(frozen=True)
class Alone:
    """One request at a time on an idle system: the seconds each took."""

    latencies_s: list[float]
    wrong: int
    lost: int = 0


@dataclass(frozen=True)
class Footprint:
    """Memory of the workers after each of their processes has predicted.

    Attributes:
        predicted: how many processes used the model.
        copies: how many processes hold as much memory of their own as the model is large.
    """

    pss_mb: float
    processes: int
    predicted: int
    copies: int
    lost: int
    wrong: int


def warm_up(contestant: Contestant, rows: int) -> None:
    """Let every process predict, and every connection open, before anything is measured."""
    answers = contestant.collect(contestant.submit(contestant.workload.rows[:rows]), timeout_s=60)
    if lost := sum(answer is None for answer in answers):
        raise RuntimeError(f"{lost} of {rows} requests were not answered while warming up")


def burst(contestant: Contestant, count: int, *, start: int = 0) -> Burst:
    """Submit all, wait for all."""
    chosen = contestant.workload.take(count, start)
    rows = contestant.workload.rows[chosen]
    gc.collect()
    before, began = accounting.cpu(contestant.workers(), contestant.redis()), time.perf_counter()
    answers = contestant.collect(contestant.submit(rows), timeout_s=60)
    ended, client = time.perf_counter(), time.process_time()
    time.sleep(TOLD_S)
    spent = accounting.cpu(contestant.workers(), contestant.redis(), client).since(before)
    contestant.settle()
    settled = time.perf_counter() - ended
    lost, wrong = _compare(contestant.workload, answers, chosen)
    return Burst(count, ended - began, spent.client, spent.workers, spent.redis, spent.machine, settled, lost, wrong)


def submission(contestant: Contestant, count: int, *, start: int = 0, singly: bool = False) -> Submission | None:
    """Submit all while nobody works, then wait for all; None where the contestant has no other call for a single request."""
    chosen = contestant.workload.take(count, start)
    rows = contestant.workload.rows[chosen]
    gc.collect()
    with _held(contestant.workers()):
        began = time.perf_counter()
        handles = contestant.submit_singly(rows) if singly else contestant.submit(rows)
        submitted = time.perf_counter()
    if handles is None:
        return None
    lost, wrong = _compare(contestant.workload, contestant.collect(handles, timeout_s=60), chosen)
    return Submission(count, submitted - began, lost, wrong)


def alone(contestant: Contestant, count: int, *, start: int = 0) -> Alone:
    """Send the next request when the last one is answered."""
    latencies, wrong = [], 0
    for row in contestant.workload.take(count, start):
        began = time.perf_counter()
        answer = contestant.one(contestant.workload.rows[row])
        latencies.append(time.perf_counter() - began)
        wrong += contestant.workload.wrong([answer], [row])
    return Alone(latencies, wrong)


def footprint(contestant: Contestant, megabytes: int, timeout_s: float = 60.0) -> Footprint:
    """Predict until every process has, then add up what they hold."""
    deadline, missed = time.monotonic() + timeout_s, np.zeros(2, dtype=int)
    predicted: set[int] = set()
    while len(predicted) < contestant.place.processes and time.monotonic() < deadline:
        chosen = contestant.workload.take(4 * contestant.place.processes)
        answers = contestant.collect(contestant.submit(contestant.workload.rows[chosen]), timeout_s=60)
        missed += _compare(contestant.workload, answers, chosen)
        held = accounting.memory(contestant.workers() or [os.getpid()])
        predicted = _witnesses(contestant) & {process.pid for process in held}
    copies = sum(process.pss_mb >= megabytes for process in held)
    return Footprint(sum(process.pss_mb for process in held), len(held), len(predicted), copies, *map(int, missed))


def _witnesses(contestant: Contestant) -> set[int]:
    return {int(seen.name) for seen in Path(contestant.place.env[WITNESS]).iterdir()}


@contextlib.contextmanager
def _held(workers: Iterable[int]) -> Iterator[None]:
    """Stop the workers' processes for a moment, shorter than any lease or heartbeat."""
    held = list(accounting.tree(workers))
    try:
        for process in held:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in held:
            process.send_signal(signal.SIGCONT)


def _compare(workload: Workload, answers: Sequence[np.ndarray | None], chosen: np.ndarray) -> tuple[int, int]:
    """Count the answers that are missing and those that are not the model's."""
    came = [(answer, row) for answer, row in zip(answers, chosen, strict=True) if answer is not None]
    return len(answers) - len(came), workload.wrong([answer for answer, _ in came], [row for _, row in came])
