"""How much is measured, and the order of it: rounds of A B C, B C A, ... so that what disturbs the machine disturbs all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import contestants
import workload
from client import Client, ContestantFailed, running
from contestant import Place
from estimators import WITNESS

MEASURES = ("burst", "alone", "memory")
QUICK = ("mutirao", "celery-prefork", "in-process")
WARM_UP_ROWS = 100


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        rows: requests in a burst, per workload.
        requests: requests sent alone in each round, per workload.
        processes: how many processes may run the model in the burst and alone; 4 for memory.
        aof: Redis logs every change to disk, for every contestant.
    """

    measures: tuple[str, ...] = MEASURES
    models: tuple[str, ...] = ("iris", "forest")
    contestants: tuple[str, ...] = tuple(contestants.TABLE)
    rounds: int = 5
    rows: dict[str, int] = field(default_factory=lambda: {"iris": 2000, "forest": 600})
    requests: dict[str, int] = field(default_factory=lambda: {"iris": 200, "forest": 100})
    processes: int = 2
    output: str = "predict_proba"
    megabytes: int = 400
    aof: bool = False

    def quick(self) -> Plan:
        """Return the plan that only shows that all of it works."""
        rows, requests = {"iris": 300, "forest": 100}, {"iris": 50, "forest": 30}
        return replace(self, contestants=QUICK, rounds=1, rows=rows, requests=requests, megabytes=100)

    @property
    def redis(self) -> dict[str, str]:
        return {"appendonly": "yes" if self.aof else "no"}


@dataclass
class Findings:
    """What a run saw: a record per measure, and what went wrong in words."""

    records: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, value: Any, **where: Any) -> None:
        if value is not None:
            self.records.append({**where, **asdict(value)})

    @property
    def bad(self) -> list[dict[str, Any]]:
        """The measures with an answer that is lost or wrong."""
        return [record for record in self.records if record["lost"] or record["wrong"]]


def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Findings:
    """Take all measures."""
    findings = Findings()
    for name in plan.models:
        if {"burst", "alone"} & set(plan.measures):
            _speed(plan, workload.WORKLOADS[name](folder, plan.output), folder / name, findings, say)
    if "memory" in plan.measures:
        _memory(plan, workload.big(folder, plan.megabytes), folder / "memory", findings, say)
    return findings


def _speed(plan: Plan, load: workload.Workload, folder: Path, findings: Findings, say: Callable[[str], None]) -> None:
    names = [name for name in contestants.BY_SPEED if name in plan.contestants]
    with contextlib.ExitStack() as stack:
        clients = []
        for name in names:
            say(f"{load.name}: starting {name}")
            try:
                client = stack.enter_context(running(name, load, Place(folder / name, plan.processes, plan.redis)))
                client.measure("warm_up", WARM_UP_ROWS)
                clients.append(client)
            except ContestantFailed as exc:
                findings.failures.append(str(exc))
        for turn in range(plan.rounds):
            say(f"{load.name}: round {turn + 1} of {plan.rounds}")
            clients = [client for client in clients if _round(plan, load.name, turn, client, findings)]
            clients = clients[1:] + clients[:1]


def _round(plan: Plan, model: str, turn: int, client: Client, findings: Findings) -> bool:
    """Take a round's measures; False where the contestant failed or lost an answer: it would hold up those that follow."""
    where = {"model": model, "contestant": client.name, "round": turn}
    rows, requests = plan.rows[model], plan.requests[model]
    try:
        if "burst" in plan.measures:
            findings.add(client.measure("burst", rows, start=turn * rows), measure="burst", **where)
            findings.add(client.measure("burst", rows, start=turn * rows, singly=True), measure="burst singly", **where)
        if "alone" in plan.measures and contestants.find(client.name).single:
            findings.add(client.measure("alone", requests, start=turn * requests), measure="alone", **where)
    except ContestantFailed as exc:
        findings.failures.append(str(exc))
        return False
    return not any(record["lost"] for record in findings.bad if record["contestant"] == client.name)


def _memory(plan: Plan, load: workload.Workload, folder: Path, findings: Findings, say: Callable[[str], None]) -> None:
    for name in (name for name in contestants.BY_MEMORY if name in plan.contestants):
        say(f"memory: {name}")
        witnesses = folder / f"{name}-witnesses"
        witnesses.mkdir(parents=True)
        processes = 4 if contestants.find(name).remote else 1
        place = Place(folder / name, processes, plan.redis, {WITNESS: str(witnesses)})
        try:
            with running(name, load, place) as client:
                found = client.measure("footprint", plan.megabytes)
        except ContestantFailed as exc:
            findings.failures.append(str(exc))
            continue
        findings.add(found, measure="memory", model=load.name, contestant=name, round=0)
        if found.predicted < processes:
            findings.failures.append(f"{name}: only {found.predicted} of {processes} processes predicted")
