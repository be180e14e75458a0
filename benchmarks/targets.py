"""What this system is held to: each measure against plain Celery's best setting of the same round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import contestants
import summary
from summary import PLAIN, Record, Spread


class _Measure(NamedTuple):
    """One line: whose value of which records, better when it is `better`, and the ratio that it must reach or stay under."""

    measure: str
    models: str | None
    name: str
    value: Callable[[Record], float]
    better: Callable[..., float]
    limit: float
    scale: float = 1.0
    ours: str = "mutirao"
    theirs: Collection[str] = PLAIN


QUIET, WATCHED = contestants.BY_EVENTS

MEASURES = (
    _Measure("burst", "iris", "iris burst, predictions/s", summary.throughput, max, 20),
    _Measure("burst", "forest", "forest burst, predictions/s", summary.throughput, max, 75),
    _Measure("submit", "iris", "submit_many, requests/s", summary.submitted, max, 25),
    _Measure("alone", "iris", "iris alone, p50 ms", summary.latency, min, 0.5, 1000),
    _Measure("burst", "iris", "iris burst, CPU s per 1,000", summary.cpu, min, 1 / 12),
    _Measure(
        "burst watched", None, "iris burst, Flower watching\n(beside it: no events)",
        summary.throughput, max, 0.7, ours=WATCHED, theirs=(QUIET,),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One measure: both sides, their ratio round by round, what it must be, and whether its median is."""

    measure: str
    theirs: Spread | None
    ours: Spread | None
    ratio: Spread | None
    must: str
    met: bool | None


def found(records: Iterable[Record]) -> list[Target]:
    """Hold the records against every target; `met` is None where it was not measured."""
    records = list(records)
    return [_target(one, records) for one in MEASURES]


def _target(one: _Measure, records: list[Record]) -> Target:
    own = [r for r in records if r["measure"] == one.measure and one.models in (None, r["model"])]
    rounds: dict[int, list[float]] = {}
    for record in own:
        if record["contestant"] in one.theirs:
            rounds.setdefault(record["round"], []).append(one.scale * one.value(record))
    ratio = summary.ratio(own, one.ours, one.measure, one.value, one.better, one.theirs)
    least = one.better is max
    return Target(
        one.name,
        summary.spread(one.better(values) for values in rounds.values()),
        summary.spread(one.scale * one.value(record) for record in own if record["contestant"] == one.ours),
        ratio,
        f"{'>=' if least else '<='} {_limit(one.limit)}",
        None if ratio is None else (ratio.median >= one.limit if least else ratio.median <= one.limit),
    )


def _limit(value: float) -> str:
    return f"1/{1 / value:.0f}" if value < 0.1 else f"{value:g}"
