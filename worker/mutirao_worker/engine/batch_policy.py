"""What goes into the next batch, and when: a pure policy, its clock injected, that knows neither Celery nor Redis.

It is work-conserving: when a slot of the pool is free, what waits is taken at once; while all are busy, it grows. So it adds
no latency at low load, and makes large batches under load, without a timer. `max_wait_ms` asks for one all the same.

A slot is of use only with a core for it. Where processes wait for cores, a second batch of a model, whose rows would cost less
than the batch itself, grows until the first has ended, as if all slots were busy: both take what one takes, at half the cost.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mutirao_worker.engine.service_time import FORGET, ServiceTimeModel
from mutirao_worker.models.manifest import BatchLimits

# No more than about this much work is taken ahead by one worker, so that a burst spreads over the fleet.
AHEAD_S = 1.0
# Splitting a batch over free slots pays only where it saves more than a process's hand-over costs.
SPLIT_S = 0.004
# A request of a lower step that has waited in the worker for this long goes before those of higher ones.
PATIENCE_S = 1.0
# Cores are short where processes have lately waited for one for this share of their time.
SHORT = 0.05
# For no longer than this is a slot left free for want of a core.
JOIN_S = 0.05


class ModelQueue:
    """One model's requests that wait in this worker."""

    def __init__(self, limits: BatchLimits) -> None:
        """Start with nobody waiting."""
        self.limits = limits
        self.fit = ServiceTimeModel()
        self.steps: dict[int, deque[Any]] = {}
        self.again: deque[list[Any]] = deque()
        self.count = self.rows = self.size = 0
        self.running = 0
        self.rows_per_request = 1.0

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self.count or self.again)

    def __iter__(self) -> Iterator[Any]:
        """Go through the requests that wait."""
        yield from itertools.chain(*self.again, *self.steps.values())

    def add(self, request: Any) -> None:
        """Let a request wait."""
        step = request.priority
        if step not in self.steps:
            self.steps[step] = deque()
            self.steps = dict(sorted(self.steps.items()))
        self.steps[step].append(request)
        self.count += 1
        self.rows += request.rows
        self.size += request.size
        self.rows_per_request += 0.05 * (request.rows - self.rows_per_request)

    def oldest(self) -> float:
        """When the one that has waited longest came."""
        firsts = [waiting[0] for waiting in self.steps.values() if waiting]
        return min((first.received for first in (*firsts, *itertools.chain(*self.again))), default=math.inf)

    def take(self, rows: int, now: float) -> list[Any]:
        """Take the next ones, urgent first, to at most so many rows; one that has more goes alone."""
        batch: list[Any] = []
        held = size = 0
        most = self.limits.max_bytes
        while self.count > len(batch):
            waiting = self._next(now)
            patient = waiting[0].received + PATIENCE_S >= now
            while waiting:
                first = waiting[0]
                if batch and (held + first.rows > rows or size + first.size > most or first.limits):
                    return self._taken(batch, held, size)
                batch.append(waiting.popleft())
                held += first.rows
                size += first.size
                if first.limits:  # its client's own time limits are its own alone
                    return self._taken(batch, held, size)
                if not patient:
                    break
        return self._taken(batch, held, size)

    def waits_since(self, moment: float) -> bool:
        """Whether anybody who could run elsewhere as well has waited here since before this moment."""
        return any(waiting[0].received < moment for waiting in self.steps.values() if waiting)

    def spare(self) -> list[Any]:
        """Take out everybody who could run elsewhere as well; groups that are to stay apart stay."""
        left = list(itertools.chain(*self.steps.values()))
        self.steps = {}
        self.count = self.rows = self.size = 0
        return left

    def clear(self) -> list[Any]:
        """Take out everybody."""
        left = [*itertools.chain(*self.again), *self.spare()]
        self.again = deque()
        return left

    def _taken(self, batch: list[Any], rows: int, size: int) -> list[Any]:
        self.count -= len(batch)
        self.rows -= rows
        self.size -= size
        return batch

    def _next(self, now: float) -> deque[Any]:
        waiting = [each for each in self.steps.values() if each]
        if len(waiting) > 1:
            oldest = min(waiting, key=lambda each: each[0].received)
            if now - oldest[0].received > PATIENCE_S:
                return oldest
        return waiting[0]


class Batcher:
    """The policy for one worker: its models, and the slots of its pool."""

    def __init__(self, limits: Callable[[str], BatchLimits]) -> None:
        """Take the way to find a model's limits."""
        self._limits = limits
        self._waited_s = self._took_s = 0.0
        self.lines: dict[str, ModelQueue] = {}

    def __iter__(self) -> Iterator[Any]:
        """Go through the requests that wait."""
        return (request for line in self.lines.values() for request in line)

    def line(self, model: str) -> ModelQueue:
        """Find a model's line; the first request of a model makes it."""
        if model not in self.lines:
            self.lines[model] = ModelQueue(self._limits(model))
        return self.lines[model]

    def add(self, request: Any) -> None:
        """Let a request wait."""
        self.line(request.model).add(request)

    def add_again(self, model: str, groups: Iterable[list[Any]]) -> None:
        """Let groups that are to stay apart go before everybody else."""
        self.line(model).again.extend(groups)

    def timed(self, model: str, rows: int, seconds: float, waited_s: float) -> None:
        """Learn from a batch, and of the machine from how long its process waited for a core."""
        self.line(model).fit.observe(rows, seconds, waited_s)
        self._took_s = FORGET * self._took_s + seconds
        self._waited_s = FORGET * self._waited_s + waited_s

    @property
    def short(self) -> bool:
        """Whether processes have lately waited for cores."""
        return self._waited_s > SHORT * self._took_s

    def next(self, now: float, free: int, slots: int) -> list[Any]:
        """Choose the next batch for a free slot; empty where nothing is ready."""
        line = self._chosen(now, slots)
        if line is None:
            return []
        if line.again:
            return line.again.popleft()
        return line.take(self.size(line, free), now)

    def size(self, line: ModelQueue, free: int) -> int:
        """Choose how many rows the next batch of a model holds, with so many slots free."""
        rows = self._most(line)
        if not line.fit.known:  # one slot's worth of a model that nobody has timed: the others may be quicker elsewhere
            return min(rows, math.ceil(line.rows / max(1, free)))
        rows = min(rows, max(1, line.fit.rows_within(AHEAD_S)))
        per_row, _ = line.fit.line
        if free > 1 and per_row * line.rows > SPLIT_S:
            rows = min(rows, math.ceil(line.rows / free))
        return max(1, rows)

    def wake_at(self, now: float) -> float | None:
        """Tell when a batch that still waits for others is to go; None where none does, or where another's end is to come first."""
        times = [
            line.oldest() + line.limits.max_wait_s
            for line in self.lines.values()
            if line.count and line.limits.max_wait_s and not self._grows(line)
        ]
        return max(now, min(times)) if times else None

    def room(self, model: str, free: int, slots: int) -> tuple[int, int]:
        """Tell how many requests a free slot may get from the queue, and how many to hold for slots that are busy.

        Nothing is wanted ahead while half of what may be held is there: taking few at a time costs as much as taking many.
        """
        line = self.line(model)
        # Others that keep every slot busy must not keep out one that has none.
        entry = 0 if free or line or line.running else 1
        if not line.fit.known:
            return max(0, 1 - line.count), entry
        rows = self._full(line)
        batches = min(2 * slots, math.floor(slots * AHEAD_S / max(1e-6, line.fit.seconds(rows))))
        per_request = max(1.0, line.rows_per_request)
        ahead = math.floor((batches * rows - line.rows) / per_request) if line.rows <= batches * rows / 2 else 0
        return max(0, math.ceil((rows - line.rows) / per_request)), max(ahead, entry)

    def speeds(self, slots: int) -> dict[str, float]:
        """Foretell how many rows of each model so many slots answer a second, with full batches; of those that have been timed."""
        found = {}
        for model, line in self.lines.items():
            within_s = min(line.limits.latency_s or AHEAD_S, AHEAD_S)
            if (speed := line.fit.speed(line.limits.max_rows, within_s)) > 0:
                found[model] = slots * speed
        return found

    def rows(self) -> dict[str, float]:
        """Tell the mean rows of each model's latest batches."""
        return {model: line.fit.rows for model, line in self.lines.items() if line.fit.known}

    def _full(self, line: ModelQueue) -> int:
        """How many rows a batch holds when there is no lack of them."""
        return min(
            line.limits.max_rows, line.fit.rows_within(line.limits.latency_s or AHEAD_S), line.fit.rows_within(AHEAD_S)
        )

    def _chosen(self, now: float, slots: int) -> ModelQueue | None:
        """Choose a model: one within its share of the slots before one beyond it, then who has waited longest."""
        ready = [line for line in self.lines.values() if line and self._ready(line, now) and not self._grows(line)]
        if len(ready) < 2:
            return ready[0] if ready else None
        active = sum(1 for line in self.lines.values() if line or line.running)
        share = max(1, slots // active)
        return min(
            ready, key=lambda line: (line.running >= share, line.running if line.running >= share else 0, line.oldest())
        )

    def _ready(self, line: ModelQueue, now: float) -> bool:
        wait = line.limits.max_wait_s
        return (
            not wait
            or bool(line.again)
            or line.rows >= self._most(line)
            or line.size >= line.limits.max_bytes
            or now - line.oldest() >= wait
            or any(waiting[0].limits for waiting in line.steps.values() if waiting)
        )

    def _grows(self, line: ModelQueue) -> bool:
        """Whether what waits had better join in one batch once another of its model has ended."""
        return (
            self.short
            and bool(line.running)
            and not line.again
            and line.rows < self._most(line)
            and line.fit.mostly_fixed(line.rows)
            and line.fit.seconds(line.rows) < JOIN_S
        )

    def _most(self, line: ModelQueue) -> int:
        """The most rows that any batch of a model may hold."""
        if line.limits.latency_s and line.fit.known:
            return min(line.limits.max_rows, line.fit.rows_within(line.limits.latency_s))
        return line.limits.max_rows


def isolation_groups(batch: list[Any], runs_left: int) -> list[list[Any]]:
    """Split a batch of which one request, nobody knows which, ended its process, so that it stands alone in its last run.

    With r runs left, groups of n^((r-1)/r) find it in r runs at the least number of groups: 256 are 16 groups of 16, then 16 alone.
    """
    if runs_left <= 1 or len(batch) <= 1:
        return [[request] for request in batch]
    size = max(1, math.floor(len(batch) ** ((runs_left - 1) / runs_left)))
    return [batch[at : at + size] for at in range(0, len(batch), size)]
