"""From rounds to figures: medians with their range, and ratios within a round, where both sides had the same machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import contestants
import numpy as np

Record = dict[str, Any]

PLAIN = tuple(name for name in contestants.TABLE if contestants.find(name).plain)


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, the least and the most."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        if self.least == self.most:
            return number(self.median)
        return f"{number(self.median)}\n({number(self.least)}-{number(self.most)})"


@dataclass(frozen=True)
class Speed:
    """One contestant on one model.

    Attributes:
        ratio: its throughput over that of the better plain Celery app in the same round.
        latency_ratio: its median latency over that of the better plain Celery app in the same round.
        cpu_s: CPU seconds per 1,000 predictions of client, workers and Redis.
        others_cores: cores that processes outside this contestant kept busy during its bursts.
    """

    model: str
    contestant: str
    throughput: Spread | None
    ratio: Spread | None
    submit: Spread | None
    submit_singly: Spread | None
    p50_ms: float | None
    p99_ms: float | None
    latency_ratio: Spread | None
    cpu_s: dict[str, float] | None
    others_cores: float | None
    lost: int
    wrong: int


def speeds(records: Iterable[Record]) -> list[Speed]:
    """Summarise every contestant on every model, in the order of the table."""
    timed = [record for record in records if record["measure"] not in ("memory", "burst watched")]
    models = dict.fromkeys(record["model"] for record in timed)
    measured = {(record["model"], record["contestant"]) for record in timed}
    return [
        _speed(model, contestant, [record for record in timed if record["model"] == model])
        for model in models
        for contestant in contestants.TABLE
        if (model, contestant) in measured
    ]


def number(value: float) -> str:
    """Write a figure with about three digits: more would pretend."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _speed(model: str, contestant: str, records: list[Record]) -> Speed:
    mine = [record for record in records if record["contestant"] == contestant]
    bursts = [record for record in mine if record["measure"] == "burst"]
    submits = [record for record in mine if record["measure"] == "submit"]
    singly = [record for record in mine if record["measure"] == "submit singly"] or submits
    latencies = [1000 * second for record in mine if record["measure"] == "alone" for second in record["latencies_s"]]
    return Speed(
        model,
        contestant,
        throughput=spread(map(throughput, bursts)),
        ratio=ratio(records, contestant, "burst", throughput, max),
        submit=spread(map(submitted, submits)),
        submit_singly=spread(map(submitted, singly)),
        p50_ms=float(np.percentile(latencies, 50)) if latencies else None,
        p99_ms=float(np.percentile(latencies, 99)) if latencies else None,
        latency_ratio=ratio(records, contestant, "alone", latency, min),
        cpu_s={
            who: median(1000 * b[f"{who}_cpu_s"] / b["rows"] for b in bursts) for who in ("client", "workers", "redis")
        }
        if bursts
        else None,
        others_cores=median(map(_others, bursts)) if bursts else None,
        lost=sum(record["lost"] for record in mine),
        wrong=sum(record["wrong"] for record in mine),
    )


def throughput(record: Record) -> float:
    """Predictions a second of a burst."""
    return float(record["rows"] / record["total_s"])


def submitted(record: Record) -> float:
    """Requests handed over a second."""
    return float(record["rows"] / record["submit_s"])


def latency(record: Record) -> float:
    """The median of requests alone, in seconds."""
    return float(median(record["latencies_s"]))


def cpu(record: Record) -> float:
    """CPU seconds per 1,000 predictions of a burst: client, workers and Redis."""
    return float(1000 * sum(record[f"{who}_cpu_s"] for who in ("client", "workers", "redis")) / record["rows"])


def _others(record: Record) -> float:
    own = record["client_cpu_s"] + record["workers_cpu_s"] + record["redis_cpu_s"]
    return float(max(0.0, record["machine_cpu_s"] - own) / record["total_s"])


def ratio(
    records: Iterable[Record],
    contestant: str,
    measure: str,
    value: Callable[[Record], float],
    better: Callable[..., float],
    others: Collection[str] = PLAIN,
) -> Spread | None:
    """Compare a contestant with the better of the others in the same round."""
    rounds: dict[int, dict[str, float]] = {}
    for record in records:
        if record["measure"] == measure:
            rounds.setdefault(record["round"], {})[record["contestant"]] = value(record)
    pairs = [
        (seen[contestant], [seen[name] for name in others if name in seen])
        for seen in rounds.values()
        if contestant in seen
    ]
    return spread(mine / better(theirs) for mine, theirs in pairs if theirs)


def spread(values: Iterable[float]) -> Spread | None:
    """Summarise the rounds; None where there were none."""
    found = list(values)
    return Spread(median(found), min(found), max(found)) if found else None
