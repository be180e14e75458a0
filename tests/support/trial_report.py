"""What became of every request of a trial: lost, wrong, ended twice, run again, and because of which kill."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from support.execution_log import Execution
from support.worker_group import Kill

SLACK_S = 1.0
LASTING_S = 60.0


class TrialReport(NamedTuple):
    """The figures of a trial.

    Attributes:
        system: who was tried.
        seed: of the kills and of the load.
        kills: how many, by kind.
        accepted: requests.
        lost: the ids of those without an end, although nothing was left to wait for.
        failed: how often they ended without an answer, by reason.
        wrong: the ids of those whose answer is not the model's own.
        doubles: the ids of those whose end was announced more than once.
        again: rows that were predicted more than once, by the kind of kill that explains it; "" for none that does.
        recovered_s: for each request that a killed worker held: until it ran elsewhere.
        leftovers: sizes of the keys that ought to be empty.
        slow: workers that did not end in time when asked to.
        took_s: seconds from the first request to the last answer.
    """

    system: str
    seed: int
    kills: Mapping[str, int]
    accepted: int
    lost: Sequence[str]
    failed: Mapping[str, int]
    wrong: Sequence[str]
    doubles: Sequence[str]
    again: Mapping[str, int]
    recovered_s: Sequence[float]
    leftovers: Mapping[str, int]
    slow: Mapping[str, int]
    took_s: float

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        again = ", ".join(f"{count} by {kind or 'nothing known'}" for kind, count in sorted(self.again.items()))
        lines = {
            "seed": self.seed,
            "kills": f"{sum(self.kills.values())} ({kills})",
            "accepted": f"{self.accepted} in {self.took_s:.0f} s",
            "lost": f"{len(self.lost)} {list(self.lost[:5]) or ''}",
            "failed": dict(self.failed) or 0,
            "wrong answers": f"{len(self.wrong)} {list(self.wrong[:5]) or ''}",
            "ended twice": f"{len(self.doubles)} {list(self.doubles[:5]) or ''}",
            "rows run again": f"{sum(self.again.values())} ({again})",
            "recovery": spread(self.recovered_s),
            "left in keys": dict(self.leftovers) or 0,
            "slow to end": len(self.slow),
        }
        return "\n".join([f"{self.system}", *(f"  {name:<16}{value}" for name, value in lines.items())])


def spread(times_s: Sequence[float]) -> str:
    """Write a distribution of seconds in a line."""
    if not times_s:
        return "-"
    ordered = sorted(times_s)
    p90 = ordered[int(0.9 * (len(ordered) - 1))]
    return (
        f"p50 {statistics.median(ordered):.1f} s, p90 {p90:.1f} s, max {ordered[-1]:.1f} s of {len(ordered)} requests"
    )


def again(rows: Mapping[int, Sequence[Execution]], kills: Iterable[Kill]) -> Counter[str]:
    """Count the executions of a row after its first one, by the kind of kill that explains them."""
    hits: dict[int, list[Kill]] = {}
    for kill in kills:
        for pid in kill.pids:
            hits.setdefault(pid, []).append(kill)
    return Counter(
        _because(before, after, hits)
        for executions in rows.values()
        for before, after in itertools.pairwise(executions)
    )


def recovered_s(
    rows: Mapping[int, Sequence[Execution]], kills: Iterable[Kill], first_row: Mapping[str, int]
) -> list[float]:
    """For each request that a killed worker held: how long until it ran elsewhere, or ran again."""
    return [
        min(later)
        for kill in kills
        for id in kill.held
        if (later := [run.at - kill.at for run in rows.get(first_row.get(id, 0), ()) if run.at > kill.at])
    ]


def _because(before: Execution, after: Execution, hits: Mapping[int, Sequence[Kill]]) -> str:
    """Find the kill that hit one of the two processes, after the first run began and before the second."""
    pids = (before.pid, before.parent, after.pid, after.parent)
    for kill in itertools.chain.from_iterable(hits.get(pid, ()) for pid in pids):
        if before.at - LASTING_S < kill.at < after.at + SLACK_S:
            return kill.kind
    return ""
