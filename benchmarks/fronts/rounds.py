"""Who is asked, in which order, and what each round came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import workload
from workload import Workload

import fronts
from fronts import load, wire
from fronts.front import Front

OUTPUT = "predict_proba"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        seconds: how long each round asks.
        connections: how many ask at once.
        alone_s: how long one connection asks by itself, on an otherwise idle system.
    """

    models: tuple[str, ...] = tuple(workload.WORKLOADS)
    names: tuple[str, ...] = tuple(fronts.TABLE)
    rounds: int = 5
    seconds: float = 8.0
    connections: int = 64
    alone_s: float = 1.5
    warm_s: float = 2.0


@dataclass(frozen=True)
class Round:
    """What one round of one server came to.

    Attributes:
        measure: "load", or "alone" for one connection.
        answered: how many answers came while it asked, over `seconds`.
        cpu_s: CPU seconds by role, the client's included, until all had been answered.
        asked: how many requests that CPU was spent on.
        machine_cpu_s: what everybody on the machine spent meanwhile.
        said: what an answer that is no 200 said.
    """

    model: str
    contestant: str
    measure: str
    round: int
    seconds: float
    answered: int
    asked: int
    p50_ms: float
    p99_ms: float
    cpu_s: dict[str, float]
    machine_cpu_s: float
    lost: int
    wrong: int
    said: str


def run(plan: Plan, folder: Path, tell: Tell) -> Iterator[dict[str, Any]]:
    """Measure all, round by round; raise what a server that does not start raises."""
    return (asdict(found) for model in plan.models for found in _model(plan, model, folder, tell))


def _model(plan: Plan, model: str, folder: Path, tell: Tell) -> Iterator[Round]:
    tell(f"{model}: fitting the model, starting {', '.join(plan.names)}")
    served = workload.WORKLOADS[model](folder, OUTPUT)
    with ExitStack() as stack:
        asked = [stack.enter_context(_asked(served, name, folder, plan)) for name in plan.names]
        for number in range(plan.rounds):
            for one in _turn(asked, number):
                tell(f"{model}: round {number + 1} of {plan.rounds}, {one.front.name}")
                yield one.measure("load", number, plan.connections, plan.seconds)
                yield one.measure("alone", number, 1, plan.alone_s)


def _turn(asked: Sequence[_Asked], number: int) -> Sequence[_Asked]:
    """Start with the next one each round, and go the other way round every other time: nobody always follows the same one."""
    first = number % len(asked)
    turned = [*asked[first:], *asked[:first]]
    return turned[::-1] if number % 2 and len(asked) > 2 else turned


@contextmanager
def _asked(served: Workload, name: str, folder: Path, plan: Plan) -> Iterator[_Asked]:
    place = folder / f"{served.name}-{name}"
    place.mkdir()
    front = fronts.TABLE[name](served, place)
    try:
        front.start()
        one = _Asked(front, wire.requests(served, front.port))
        warm = one.measure("warm-up", 0, plan.connections, plan.warm_s)
        if warm.lost or warm.wrong:
            said = f"{warm.lost} of {warm.asked} requests lost or refused, {warm.wrong} wrong {warm.said}"
            raise RuntimeError(f"{name} does not answer {served.name} as the model does: {said}")
        yield one
    finally:
        with suppress(AttributeError):  # it failed before it had anything to stop
            front.stop()


@dataclass(frozen=True)
class _Asked:
    """A server that runs, and the requests to send it."""

    front: Front
    requests: list[bytes]

    def measure(self, measure: str, number: int, connections: int, seconds: float) -> Round:
        before, everybody, start = spent(self.front), _machine(), number * 1_000
        found = load.drive(self.front.port, self.requests, connections=connections, seconds=seconds, start=start)
        everybody, after = _machine() - everybody, spent(self.front)
        in_time = [answer.took_s * 1_000 for answer in found.answers if answer.at_s <= seconds and answer.status == 200]
        lost, wrong, said = wire.missing(self.front.workload, found.answers, found.sent)
        return Round(
            model=self.front.workload.name,
            contestant=self.front.name,
            measure=measure,
            round=number,
            seconds=seconds,
            answered=len(in_time),
            asked=found.sent,
            p50_ms=float(np.percentile(in_time or [np.nan], 50)),
            p99_ms=float(np.percentile(in_time or [np.nan], 99)),
            cpu_s={"client": found.cpu_s, **{role: after[role] - before[role] for role in after}},
            machine_cpu_s=everybody,
            lost=lost,
            wrong=wrong,
            said=said,
        )


def spent(front: Front) -> dict[str, float]:
    """Read the CPU seconds of each role's processes, children of workers included."""
    return {role: sum(map(_spent, numbers)) for role, numbers in front.processes().items()}


def _spent(number: int) -> float:
    times = psutil.Process(number).cpu_times()
    return float(times.user + times.system)


def _machine() -> float:
    busy = psutil.cpu_times()
    return float(busy.user + busy.nice + busy.system + busy.irq + busy.softirq)
