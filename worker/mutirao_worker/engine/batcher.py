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
# Processes are starved of cores where they have lately waited for one for this share of their time.
CPU_STARVED_SHARE = 0.05
# For no longer than this is a slot left free for want of a core.
DEFER_MAX_S = 0.05


class ModelQueue:
    """One model's requests that wait in this worker."""

    def __init__(self, limits: BatchLimits) -> None:
        """Start empty."""
        self.limits = limits
        self.service_time = ServiceTimeModel()
        self.steps: dict[int, deque[Any]] = {}
        self.isolated: deque[list[Any]] = deque()
        self.count = self.rows = self.size = 0
        self.running = 0
        self.rows_per_request = 1.0

    def __bool__(self) -> bool:
        """Whether any request waits."""
        return bool(self.count or self.isolated)

    def __iter__(self) -> Iterator[Any]:
        """Go through the requests that wait."""
        yield from itertools.chain(*self.isolated, *self.steps.values())

    def add(self, request: Any) -> None:
        """Queue a request."""
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
        """Return when the request that has waited longest came."""
        firsts = [waiting[0] for waiting in self.steps.values() if waiting]
        return min((first.received for first in (*firsts, *itertools.chain(*self.isolated))), default=math.inf)

    def take(self, rows: int, now: float) -> list[Any]:
        """Remove the next requests, urgent first, up to a number of rows; one that has more goes alone."""
        batch: list[Any] = []
        held = size = 0
        most = self.limits.max_bytes
        while self.count > len(batch):
            waiting = self._next_step(now)
            patient = waiting[0].received + PATIENCE_S >= now
            while waiting:
                first = waiting[0]
                if batch and (held + first.rows > rows or size + first.size > most or first.limits):
                    return self._removed(batch, held, size)
                batch.append(waiting.popleft())
                held += first.rows
                size += first.size
                if first.limits:  # its client's own time limits are its own alone
                    return self._removed(batch, held, size)
                if not patient:
                    break
        return self._removed(batch, held, size)

    def waits_since(self, moment: float) -> bool:
        """Whether a request that could run elsewhere has waited here since before this moment."""
        return any(waiting[0].received < moment for waiting in self.steps.values() if waiting)

    def take_movable(self) -> list[Any]:
        """Remove and return the requests that could run elsewhere; isolated groups stay."""
        left = list(itertools.chain(*self.steps.values()))
        self.steps = {}
        self.count = self.rows = self.size = 0
        return left

    def clear(self) -> list[Any]:
        """Remove and return all requests."""
        left = [*itertools.chain(*self.isolated), *self.take_movable()]
        self.isolated = deque()
        return left

    def _removed(self, batch: list[Any], rows: int, size: int) -> list[Any]:
        self.count -= len(batch)
        self.rows -= rows
        self.size -= size
        return batch

    def _next_step(self, now: float) -> deque[Any]:
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
        self.queues: dict[str, ModelQueue] = {}

    def __iter__(self) -> Iterator[Any]:
        """Go through the requests that wait."""
        return (request for queue in self.queues.values() for request in queue)

    def queue(self, model: str) -> ModelQueue:
        """Return a model's queue; the first use makes it."""
        if model not in self.queues:
            self.queues[model] = ModelQueue(self._limits(model))
        return self.queues[model]

    def add(self, request: Any) -> None:
        """Queue a request."""
        self.queue(request.model).add(request)

    def add_isolated(self, model: str, groups: Iterable[list[Any]]) -> None:
        """Queue groups that are to run apart from others, before everything else."""
        self.queue(model).isolated.extend(groups)

    def observe(self, model: str, rows: int, seconds: float, waited_s: float) -> None:
        """Learn from a batch, and of the machine from how long its process waited for a core."""
        self.queue(model).service_time.observe(rows, seconds, waited_s)
        self._took_s = FORGET * self._took_s + seconds
        self._waited_s = FORGET * self._waited_s + waited_s

    @property
    def cpu_starved(self) -> bool:
        """Whether processes have lately waited for cores."""
        return self._waited_s > CPU_STARVED_SHARE * self._took_s

    def next(self, now: float, free: int, slots: int) -> list[Any]:
        """Choose the next batch for a free slot; empty where nothing is ready."""
        queue = self._choose(now, slots)
        if queue is None:
            return []
        if queue.isolated:
            return queue.isolated.popleft()
        return queue.take(self.batch_rows(queue, free), now)

    def batch_rows(self, queue: ModelQueue, free: int) -> int:
        """Choose how many rows the next batch of a model holds, by the number of free slots."""
        rows = self._max_rows(queue)
        # Of a model that nobody has timed no more than one slot's worth: the others may be quicker elsewhere.
        if not queue.service_time.has_data:
            return min(rows, math.ceil(queue.rows / max(1, free)))
        rows = min(rows, max(1, queue.service_time.rows_within(AHEAD_S)))
        per_row, _ = queue.service_time.coefficients
        if free > 1 and per_row * queue.rows > SPLIT_S:
            rows = min(rows, math.ceil(queue.rows / free))
        return max(1, rows)

    def wake_at(self, now: float) -> float | None:
        """Return when a batch that waits for more requests is due; None where none waits, or where another batch is to end first."""
        times = [
            queue.oldest() + queue.limits.max_wait_s
            for queue in self.queues.values()
            if queue.count and queue.limits.max_wait_s and not self._should_defer(queue)
        ]
        return max(now, min(times)) if times else None

    def room(self, model: str, free: int, slots: int) -> tuple[int, int]:
        """Return how many requests a free slot may get from the queue, and how many to hold for busy slots.

        Nothing is wanted ahead while half of what may be held is there: taking few at a time costs as much as taking many.
        """
        queue = self.queue(model)
        # Others that keep every slot busy must not keep out one that has none.
        entry = 0 if free or queue or queue.running else 1
        if not queue.service_time.has_data:
            return max(0, 1 - queue.count), entry
        rows = self._full_rows(queue)
        batches = min(2 * slots, math.floor(slots * AHEAD_S / max(1e-6, queue.service_time.seconds(rows))))
        per_request = max(1.0, queue.rows_per_request)
        ahead = math.floor((batches * rows - queue.rows) / per_request) if queue.rows <= batches * rows / 2 else 0
        return max(0, math.ceil((rows - queue.rows) / per_request)), max(ahead, entry)

    def speeds(self, slots: int) -> dict[str, float]:
        """Estimate the rows of each model that a number of slots answers a second, with full batches; of models that were timed."""
        speeds = {}
        for model, queue in self.queues.items():
            within_s = min(queue.limits.latency_s or AHEAD_S, AHEAD_S)
            if (speed := queue.service_time.speed(queue.limits.max_rows, within_s)) > 0:
                speeds[model] = slots * speed
        return speeds

    def mean_batch_rows(self) -> dict[str, float]:
        """Return the mean rows of each model's latest batches."""
        return {
            model: queue.service_time.mean_rows for model, queue in self.queues.items() if queue.service_time.has_data
        }

    def describe(self, free: int) -> dict[str, dict[str, Any]]:
        """Describe each model's queue: what waits, what runs, and the service times."""
        described = {}
        for model, queue in self.queues.items():
            per_row, per_batch = queue.service_time.coefficients
            described[model] = {
                "waiting": queue.count, "running": queue.running, "batch_rows": self.batch_rows(queue, free),
                "ms_per_row": round(per_row * 1000, 4), "ms_per_batch": round(per_batch * 1000, 4),
            }  # fmt: skip
        return described

    def _full_rows(self, queue: ModelQueue) -> int:
        """How many rows a batch holds when there is no lack of them."""
        return min(
            queue.limits.max_rows,
            queue.service_time.rows_within(queue.limits.latency_s or AHEAD_S),
            queue.service_time.rows_within(AHEAD_S),
        )

    def _choose(self, now: float, slots: int) -> ModelQueue | None:
        """Choose a model: one within its share of the slots before one beyond it, then who has waited longest."""
        ready = [
            queue
            for queue in self.queues.values()
            if queue and self._ready(queue, now) and not self._should_defer(queue)
        ]
        if len(ready) < 2:
            return ready[0] if ready else None
        active = sum(1 for queue in self.queues.values() if queue or queue.running)
        share = max(1, slots // active)
        return min(
            ready,
            key=lambda queue: (queue.running >= share, queue.running if queue.running >= share else 0, queue.oldest()),
        )

    def _ready(self, queue: ModelQueue, now: float) -> bool:
        wait = queue.limits.max_wait_s
        return (
            not wait
            or bool(queue.isolated)
            or queue.rows >= self._max_rows(queue)
            or queue.size >= queue.limits.max_bytes
            or now - queue.oldest() >= wait
            or any(waiting[0].limits for waiting in queue.steps.values() if waiting)
        )

    def _should_defer(self, queue: ModelQueue) -> bool:
        """Whether the next batch of a model should wait until one that runs has ended, and grow meanwhile."""
        return (
            self.cpu_starved
            and bool(queue.running)
            and not queue.isolated
            and queue.rows < self._max_rows(queue)
            and queue.service_time.mostly_fixed(queue.rows)
            and queue.service_time.seconds(queue.rows) < DEFER_MAX_S
        )

    def _max_rows(self, queue: ModelQueue) -> int:
        """Return the most rows that any batch of a model may hold."""
        if queue.limits.latency_s and queue.service_time.has_data:
            return min(queue.limits.max_rows, queue.service_time.rows_within(queue.limits.latency_s))
        return queue.limits.max_rows


def isolation_groups(batch: list[Any], runs_left: int) -> list[list[Any]]:
    """Split a batch of which one request, nobody knows which, ended its process, so that it stands alone in its last run.

    With r runs left, groups of n^((r-1)/r) find it in r runs at the least number of groups: 256 are 16 groups of 16, then 16 alone.
    """
    if runs_left <= 1 or len(batch) <= 1:
        return [[request] for request in batch]
    size = max(1, math.floor(len(batch) ** ((runs_left - 1) / runs_left)))
    return [batch[at : at + size] for at in range(0, len(batch), size)]
