"""From rounds to figures: medians, ratios within a round, and what this system is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import summary
from summary import Record, Spread
from targets import Target

import fronts

ROLES = ("client", "server", "workers", "redis")


class _Measure(NamedTuple):
    """Whose value, better when it is `better`, and the ratio to theirs that it must reach or stay under."""

    name: str
    value: Callable[[Record], float]
    better: Callable[..., float]
    limit: float


def rate(record: Record) -> float:
    """Requests answered a second."""
    return float(record["answered"] / record["seconds"])


def p99(record: Record) -> float:
    """The 99th percentile of a round, in milliseconds."""
    return float(record["p99_ms"])


MEASURES = (_Measure("requests/s", rate, max, 2.0), _Measure("p99 ms", p99, min, 1.0))


@dataclass(frozen=True)
class Speed:
    """One server on one model.

    Attributes:
        ratio: its requests a second over those of the better MLServer of the same round.
        cpu_s: CPU seconds per 1,000 requests by role.
        alone_ms: p50 and p99 of one connection by itself.
        others_cores: cores that processes outside this server kept busy meanwhile, idle servers included.
    """

    model: str
    contestant: str
    rate: Spread
    ratio: Spread | None
    p50_ms: Spread
    p99_ms: Spread
    alone_ms: tuple[float, float] | None
    cpu_s: dict[str, float]
    others_cores: float
    lost: int
    wrong: int


def speeds(records: list[Record]) -> list[Speed]:
    """Summarise every server on every model, in the order of the table."""
    measured = dict.fromkeys(
        (record["model"], record["contestant"]) for record in records if record["measure"] == "load"
    )
    order = list(fronts.TABLE)
    return [_speed(*key, records) for key in sorted(measured, key=lambda key: order.index(key[1]))]


def targets(records: list[Record]) -> list[Target]:
    """Hold the records against every target; `met` is None where one side was not measured."""
    models = dict.fromkeys(record["model"] for record in records)
    return [_target(model, one, records) for model in models for one in MEASURES]


def _speed(model: str, contestant: str, records: list[Record]) -> Speed:
    of_model = [record for record in records if record["model"] == model]
    mine = [record for record in of_model if record["contestant"] == contestant]
    loads = [record for record in mine if record["measure"] == "load"]
    alone = [record for record in mine if record["measure"] == "alone"]
    return Speed(
        model,
        contestant,
        rate=_spread(rate(record) for record in loads),
        ratio=summary.ratio(of_model, contestant, "load", rate, max, fronts.THEIRS),
        p50_ms=_spread(record["p50_ms"] for record in loads),
        p99_ms=_spread(p99(record) for record in loads),
        alone_ms=(_middle(alone, "p50_ms"), _middle(alone, "p99_ms")) if alone else None,
        cpu_s={role: median(_cpu(record, role) for record in loads) for role in ROLES},
        others_cores=median(map(_others, loads)),
        lost=sum(record["lost"] for record in mine),
        wrong=sum(record["wrong"] for record in mine),
    )


def _target(model: str, one: _Measure, records: list[Record]) -> Target:
    loads = [record for record in records if record["model"] == model and record["measure"] == "load"]
    rounds: dict[int, list[float]] = {}
    for record in loads:
        if record["contestant"] in fronts.THEIRS:
            rounds.setdefault(record["round"], []).append(one.value(record))
    ratio = summary.ratio(loads, fronts.OURS, "load", one.value, one.better, fronts.THEIRS)
    least = one.better is max
    return Target(
        f"{model}, {one.name}",
        summary.spread(one.better(values) for values in rounds.values()),
        summary.spread(one.value(record) for record in loads if record["contestant"] == fronts.OURS),
        ratio,
        f"{'>=' if least else '<='} {one.limit:g}",
        None if ratio is None else (ratio.median >= one.limit if least else ratio.median <= one.limit),
    )


def _cpu(record: Record, role: str) -> float:
    return float(1_000 * record["cpu_s"].get(role, 0.0) / record["asked"])


def _others(record: Record) -> float:
    return float(max(0.0, record["machine_cpu_s"] - sum(record["cpu_s"].values())) / record["seconds"])


def _middle(records: list[Record], name: str) -> float:
    return float(median(record[name] for record in records))


def _spread(values: Iterable[float]) -> Spread:
    found = summary.spread(values)
    assert found is not None
    return found
