"""How much is measured, and the order of it: rounds of A B C, B C A, ... so that what disturbs the machine disturbs all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import contestants
import workload
from client import Client, ContestantFailed, running
from contestant import Place

MEASURES = ("burst", "submit", "alone", "memory", "events")
QUICK = ("mutirao", "celery-prefork", "mutirao-no-events", "mutirao-flower")
WARM_UP_ROWS = 100


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        rows: requests in a burst, per workload, of those who make a call of the model for each.
        batched_rows: the same, of those who put many into one call.
        submits: requests in a timed submission: by a call for many, or by one call each.
        requests: requests sent alone in each round, per workload.
        processes: how many processes may run the model in the burst and alone; 4 for memory.
        aof: Redis logs every change to disk, for every contestant.
    """

    measures: tuple[str, ...] = MEASURES
    models: tuple[str, ...] = tuple(workload.WORKLOADS)
    contestants: tuple[str, ...] = tuple(contestants.TABLE)
    rounds: int = 5
    rows: dict[str, int] = field(
        default_factory=lambda: {"iris": 2000, "forest": 600, "xgboost": 1000, "onnx": 2000, "python": 600}
    )
    batched_rows: int = workload.ROWS
    submits: tuple[int, int] = (10_000, 1_000)
    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(workload.WORKLOADS, 100) | {"iris": 200})
    processes: int = 2
    output: str = "predict_proba"
    megabytes: int = 400
    aof: bool = False

    def quick(self) -> Plan:
        """Return the plan that only shows that all of it works."""
        rows, requests = dict.fromkeys(workload.WORKLOADS, 100) | {"iris": 300}, dict.fromkeys(workload.WORKLOADS, 30)
        fewer = replace(self, rows=rows, batched_rows=2_000, submits=(2_000, 200), requests=requests)
        return replace(fewer, contestants=QUICK, rounds=1, megabytes=100)

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
    loads = {name: workload.WORKLOADS[name](folder, plan.output) for name in plan.models}
    for name, load in loads.items():
        if {"burst", "submit", "alone"} & set(plan.measures):
            names = [name for name in contestants.BY_SPEED if name in plan.contestants]
            _take(plan, load, names, _speed, folder / name, findings, say)
    if "events" in plan.measures and loads:
        names = [name for name in contestants.BY_EVENTS if name in plan.contestants]
        _take(plan, next(iter(loads.values())), names, _events, folder / "events", findings, say)
    if "memory" in plan.measures:
        _memory(plan, workload.big(folder, plan.megabytes), folder / "memory", findings, say)
    return findings


def _take(
    plan: Plan,
    load: workload.Workload,
    names: Sequence[str],
    measure: Callable[[Plan, str, int, Client, Findings], None],
    folder: Path,
    findings: Findings,
    say: Callable[[str], None],
) -> None:
    """Start all contestants at once, then have them take turns."""
    if not names:
        return
    with contextlib.ExitStack() as stack:
        say(f"{folder.name}: starting {', '.join(names)}")
        places = [Place(folder / name, plan.processes, plan.redis) for name in names]
        clients = [stack.enter_context(running(name, load, place)) for name, place in zip(names, places, strict=True)]
        clients = [client for client in clients if _stands(client, findings)]
        for turn in range(plan.rounds):
            say(f"{folder.name}: round {turn + 1} of {plan.rounds}")
            for client in tuple(clients):
                try:
                    measure(plan, load.name, turn, client, findings)
                except ContestantFailed as exc:
                    findings.failures.append(str(exc))
                    clients.remove(client)
                    continue
                if any(record["lost"] for record in findings.bad if record["contestant"] == client.name):
                    clients.remove(client)  # it would hold up those that follow
            clients = clients[1:] + clients[:1]


def _stands(client: Client, findings: Findings) -> bool:
    try:
        client.answer()
        client.measure("warm_up", WARM_UP_ROWS)
    except ContestantFailed as exc:
        findings.failures.append(str(exc))
        return False
    return True


def _speed(plan: Plan, model: str, turn: int, client: Client, findings: Findings) -> None:
    """Take a round's measures."""
    where = {"model": model, "contestant": client.name, "round": turn}
    found, requests = contestants.find(client.name), plan.requests[model]
    if "burst" in plan.measures and found.bursts:
        rows = plan.batched_rows if found.batches else plan.rows[model]
        findings.add(client.measure("burst", rows, start=turn * rows), measure="burst", **where)
    if (
        "submit" in plan.measures and found.remote and found.bursts and model == plan.models[0]
    ):  # it is the same for every model
        many, few = plan.submits
        rows = many if found.batches else few
        findings.add(client.measure("submission", rows, start=turn * rows), measure="submit", **where)
        singly = client.measure("submission", few, start=turn * few, singly=True)
        findings.add(singly, measure="submit singly", **where)
    if "alone" in plan.measures and found.single:
        findings.add(client.measure("alone", requests, start=turn * requests), measure="alone", **where)


def _events(plan: Plan, model: str, turn: int, client: Client, findings: Findings) -> None:
    where = {"model": model, "contestant": client.name, "round": turn}
    findings.add(client.measure("burst", plan.batched_rows), measure="burst watched", **where)


def _memory(plan: Plan, load: workload.Workload, folder: Path, findings: Findings, say: Callable[[str], None]) -> None:
    for name in (name for name in contestants.BY_MEMORY if name in plan.contestants):
        say(f"memory: {name}")
        witnesses = folder / f"{name}-witnesses"
        witnesses.mkdir(parents=True)
        processes = 4 if contestants.find(name).remote else 1
        place = Place(folder / name, processes, plan.redis, {workload.WITNESS: str(witnesses)})
        try:
            with running(name, load, place) as client:
                client.answer()
                found = client.measure("footprint", plan.megabytes)
        except ContestantFailed as exc:
            findings.failures.append(str(exc))
            continue
        findings.add(found, measure="memory", model=load.name, contestant=name, round=0)
        if found.predicted < processes:
            findings.failures.append(f"{name}: only {found.predicted} of {processes} processes predicted")
