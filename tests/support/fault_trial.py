"""A system under load whose processes are killed by a seeded plan, and what became of every request.

report = fault_trial.run(MutiraoSystem, folder, seed=1, kills=10)
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from support import execution_log, trial_report
from support.end_announcements import EndAnnouncements
from support.execution_log import ExecutionLog
from support.redis_servers import RedisServer
from support.trial_load import TrialLoad
from support.trial_report import TrialReport
from support.trial_systems import MutiraoSystem, TrialSystem
from support.worker_group import Kill, WorkerGroup

# How often, of a hundred; a child that dies of memory is a row that kills it.
KINDS = {"SIGKILL": 27, "child": 23, "memory": 20, "SIGTERM": 12, "SIGQUIT": 8, "SIGSTOP": 10}
PATIENCE_S = 60.0

# Read when the tests are collected: a fixture hides the caller's MUTIRAO_... from them later.
SEED = int(os.environ.get("MUTIRAO_FAULT_SEED") or random.SystemRandom().randrange(10**6))


class Step(NamedTuple):
    """After a pause, do this; choice, from 0 to 1, says to whom."""

    pause_s: float
    kind: str
    choice: float


def plan(seed: int, kills: int, every_s: float, kinds: Mapping[str, int] = KINDS) -> Iterator[Step]:
    """Plan kills: each kind once as long as there is room, then by their weights."""
    chance = random.Random(seed)
    first = chance.sample(sorted(kinds), len(kinds))
    rest = chance.choices(list(kinds), list(kinds.values()), k=max(0, kills - len(first)))
    for kind in (first + rest)[:kills]:
        yield Step(chance.uniform(0.5, 1.5) * every_s, kind, chance.random())


def run(
    contender: type[TrialSystem],
    folder: Path,
    *,
    seed: int,
    kills: int,
    every_s: float = 1.5,
    kinds: Mapping[str, int] = KINDS,
    **given: Any,
) -> TrialReport:
    """Put a system under load, kill as planned, and wait until every request has ended or nothing moves any more.

    Args:
        contender: the system.
        folder: an empty one, for the models.
        seed: of the plan and the load.
        kills: how many.
        every_s: about how long after one another.
        kinds: of kills, and how often.
        given: workers and per_s, as a Trial takes them.
    """
    with (
        RedisServer(options={"appendfsync": "always"}) as server,
        Trial(contender, folder, server.url, seed=seed, **given) as trial,
    ):
        for step in plan(seed, kills, every_s, kinds):
            trial.last(step.pause_s)
            trial.load.deadly() if step.kind == "memory" else trial.crew.kill(step.kind, step.choice)
        return trial.verdict()


@dataclass
class Trial:
    """A crew that serves and a load that is submitted, from the start of a `with` block to verdict().

    Args:
        contender: the system.
        folder: an empty one, for the models.
        url: the broker, as the submitting side sees it.
        seed: of the load.
        workers: how many, of two processes each.
        per_s: about how many requests a second.
        worker_url: the broker, as the workers see it; the same by default.
        models: beside those that the load asks for; by name, seconds a row.
        patience_s: after how long without any move the rest counts as lost.
    """

    contender: type[TrialSystem]
    folder: Path
    url: str
    _: KW_ONLY
    seed: int
    workers: int = 2
    per_s: float = 60.0
    worker_url: str = ""
    models: Mapping[str, float] = field(default_factory=dict)
    patience_s: float = PATIENCE_S

    def last(self, time_s: float, what: Callable[[], object] = lambda: None) -> None:
        """Let it go on for a time, as the plan has it, looking after the crew."""
        deadline = time.monotonic() + time_s
        while time.monotonic() < deadline:
            self.crew.restart_ended()
            what()
            time.sleep(0.05)

    def verdict(self) -> TrialReport:
        """Submit no more, wait until every request has ended or nothing moves any more, and look at each."""
        self.load.stop()
        self.crew.rest()
        self._drain()
        took_s = time.monotonic() - self._began
        asked = self.load.asked
        self.commits.settle()
        rows = self.book.by_row()
        lost = self.system.unfinished(asked)
        answers = {id: self.system.answer(id) for id in asked.keys() - set(lost)}
        kills = [*self.crew.kills, *_of_memory(self.book)]
        return TrialReport(
            system=self.system.name,
            seed=self.seed,
            kills=Counter(kill.kind for kill in kills),
            accepted=len(asked),
            lost=sorted(lost),
            failed=Counter(_reason(said) for said in answers.values() if isinstance(said, Exception)),
            wrong=[id for id, said in answers.items() if not isinstance(said, Exception) and said != asked[id].answer],
            doubles=self.commits.doubles(),
            again=trial_report.again(rows, kills),
            recovered_s=trial_report.recovered_s(rows, kills, {id: asked[id].numbers[0] for id in asked}),
            leftovers=self.system.leftovers(),
            slow=self.crew.slow,
            took_s=took_s,
        )

    def unfinished(self) -> list[str]:
        """The requests without an end: those not announced as ended are looked at."""
        return self.system.unfinished(id for id in tuple(self.load.asked) if not self.commits.ended[id])

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        root = execution_log.repository(self.folder / "models", {**execution_log.MODELS, **self.models})
        self.book = stack.enter_context(ExecutionLog())
        self.commits = stack.enter_context(EndAnnouncements(self.url))
        models = root if self.contender is MutiraoSystem else self.folder
        self.system = self.contender(self.url, models, self.book.env, worker_url=self.worker_url)
        stack.callback(self.system.close)
        self.crew = stack.enter_context(WorkerGroup(self.system, self.workers))
        self.crew.wait_ready()
        self._began = time.monotonic()
        self.load = stack.enter_context(TrialLoad(self.system, seed=self.seed, per_s=self.per_s))

    def _drain(self) -> None:
        left, moved_at = len(self.load.asked) + 1, time.monotonic()
        while time.monotonic() < moved_at + self.patience_s:
            self.crew.restart_ended()
            now = len(self.unfinished()) + len(self.system.leftovers())
            if not now:
                return
            if now < left:
                left, moved_at = now, time.monotonic()
            time.sleep(0.2)


def _reason(said: Exception) -> str:
    return f"{type(said).__name__}{', gave up' if 'gave up after' in str(said) else ''}"


def _of_memory(book: ExecutionLog) -> list[Kill]:
    """The children that rows have killed."""
    return [Kill("memory", death.at, death.at, frozenset({death.pid}), frozenset()) for death in book.deaths()]
