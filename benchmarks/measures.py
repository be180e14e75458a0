"""The measures, taken in the client's process around one contestant. Each answer is compared with the model's own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import accounting
import numpy as np
from contestant import Contestant
from estimators import WITNESS
from workload import Workload


@dataclass(frozen=True)
class Burst:
    """Many one-row requests at once.

    Attributes:
        submit_s: until the last request was handed over.
        total_s: until the last answer was in the client's hands.
        machine_cpu_s: what everybody on the machine spent meanwhile.
    """

    rows: int
    submit_s: float
    total_s: float
    client_cpu_s: float
    workers_cpu_s: float
    redis_cpu_s: float
    machine_cpu_s: float
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


def burst(contestant: Contestant, count: int, *, start: int = 0, singly: bool = False) -> Burst | None:
    """Submit all, wait for all; None where the contestant has no call for a single request."""
    chosen = contestant.workload.take(count, start)
    rows = contestant.workload.rows[chosen]
    before, began = accounting.cpu(contestant.workers(), contestant.redis()), time.perf_counter()
    handles = contestant.submit_singly(rows) if singly else contestant.submit(rows)
    if handles is None:
        return None
    submitted = time.perf_counter()
    answers = contestant.collect(handles, timeout_s=60)
    ended = time.perf_counter()
    spent = accounting.cpu(contestant.workers(), contestant.redis()).since(before)
    lost, wrong = _compare(contestant.workload, answers, chosen)
    return Burst(
        count, submitted - began, ended - began, spent.client, spent.workers, spent.redis, spent.machine, lost, wrong
    )


def alone(contestant: Contestant, count: int, *, start: int = 0) -> Alone:
    """Send the next request when the last one is answered."""
    latencies, wrong = [], 0
    for row in contestant.workload.take(count, start):
        began = time.perf_counter()
        answer = contestant.one(contestant.workload.rows[row])
        latencies.append(time.perf_counter() - began)
        wrong += not contestant.workload.right(answer, row)
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


def _compare(workload: Workload, answers: Iterable[np.ndarray | None], chosen: np.ndarray) -> tuple[int, int]:
    """Count the answers that are missing and those that are not the model's."""
    pairs = list(zip(answers, chosen, strict=True))
    lost = sum(answer is None for answer, _ in pairs)
    return lost, sum(answer is not None and not workload.right(answer, row) for answer, row in pairs)
