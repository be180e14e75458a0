"""Whether a process was idle while requests waited, rebuilt from what records and the execution log say of a run.

idle_slots.violations(served, pids)      # the moments that ought not to be: none
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

# A process may be idle for so long, whatever waits: a request has to come to it.
IDLE_S = 0.1
# A worker may hold about as much work ahead.
AHEAD_S = 1.0


class Served(NamedTuple):
    """One request: by which process it was served, and when, in seconds by Redis's clock."""

    id: str
    model: str
    pid: int
    queued_at: float
    reserved_at: float
    started_at: float
    finished_at: float

    @property
    def waited_s(self) -> float:
        return self.started_at - self.queued_at


class Idle(NamedTuple):
    """A process that ran nothing."""

    pid: int
    since: float
    until: float


class Violation(NamedTuple):
    """A process that was idle for so long while a request waited that it could have served."""

    idle: Idle
    idle_s: float
    served: Served

    def __str__(self) -> str:
        idle, one = self.idle, self.served
        times = {name: f"{at - idle.since:+.2f}" for name, at in one._asdict().items() if name.endswith("_at")}
        return (
            f"{idle.pid} idle for {self.idle_s:.2f} s of {idle.until - idle.since:.2f} s; {one.model} {one.pid} {times}"
        )


def violations(served: Sequence[Served], pids: Collection[int], idle_s: float = IDLE_S) -> list[Violation]:
    """List processes that were idle while a request waited in a queue, or sat reserved elsewhere for longer than it may."""
    return [
        Violation(stretch, until - since, one)
        for stretch in idle(served, pids)
        for one in served
        for came, went in ((one.queued_at, one.reserved_at), (one.reserved_at + AHEAD_S, one.started_at))
        if (since := max(stretch.since, came)) + idle_s < (until := min(stretch.until, went))
    ]


def idle(served: Sequence[Served], pids: Collection[int]) -> Iterator[Idle]:
    """Find the stretches in which a process ran nothing, from the first request that came to the last that was started."""
    runs: defaultdict[int, set[tuple[float, float]]] = defaultdict(set)
    for one in served:
        runs[one.pid].add((one.started_at, one.finished_at))
    assert not runs.keys() - set(pids), "a process served that is none of the fleet's"
    end = max(one.started_at for one in served)
    for pid in pids:
        since = min(one.queued_at for one in served)
        for started_at, finished_at in [*sorted(runs[pid]), (end, end)]:
            if started_at > since:
                yield Idle(pid, since, started_at)
            since = max(since, finished_at)


def waits(served: Sequence[Served]) -> str:
    """How long requests waited, by model."""
    lines = []
    for model in sorted({one.model for one in served}):
        found = sorted(one.waited_s for one in served if one.model == model)
        p50, p99 = statistics.median(found), found[int(0.99 * (len(found) - 1))]
        lines.append(f"{model}: {len(found)} requests waited p50 {p50:.3f} s, p99 {p99:.3f} s, max {found[-1]:.3f} s")
    return "\n".join(lines)
