"""A system under load whose processes are killed by a seeded plan, and what became of every request.

verdict = trial.run(Mutirao, folder, seed=1, kills=10)
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ledger
import verdict
from commits import Commits
from contenders import Contender, Mutirao
from crew import Crew, Kill
from ledger import Ledger
from load import Asked, Load
from servers import RedisServer
from verdict import Verdict

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


def plan(seed: int, kills: int, every_s: float) -> Iterator[Step]:
    """Plan kills: each kind once as long as there is room, then by their weights."""
    chance = random.Random(seed)
    first = chance.sample(sorted(KINDS), len(KINDS))
    rest = chance.choices(list(KINDS), list(KINDS.values()), k=max(0, kills - len(first)))
    for kind in (first + rest)[:kills]:
        yield Step(chance.uniform(0.5, 1.5) * every_s, kind, chance.random())


def run(
    contender: type[Contender],
    folder: Path,
    *,
    seed: int,
    kills: int,
    every_s: float = 1.5,
    workers: int = 2,
    per_s: float = 60.0,
) -> Verdict:
    """Put a system under load, kill as planned, and wait until every request has ended or nothing moves any more."""
    root = ledger.repository(folder / "models")
    with (
        Ledger() as book,
        RedisServer(options={"appendfsync": "always"}) as server,
        Commits(server.url) as commits,
    ):
        models = root if contender is Mutirao else folder
        system = contender(server.url, models, book.env)
        try:
            with Crew(system, workers) as crew:
                crew.wait_ready()
                began = time.monotonic()
                with Load(system, seed=seed, per_s=per_s) as load:
                    for step in plan(seed, kills, every_s):
                        _pause(crew, step.pause_s)
                        load.deadly() if step.kind == "memory" else crew.kill(step.kind, step.choice)
                    load.stop()
                crew.rest()
                drained(system, commits, crew, load.asked)
                return judged(system, book, commits, crew, load.asked, seed=seed, took_s=time.monotonic() - began)
        finally:
            system.close()


def drained(system: Contender, commits: Commits, crew: Crew, asked: Mapping[str, Asked]) -> None:
    """Wait until every request has ended, and its keys are empty, or nothing has moved for a minute."""
    left, moved_at = len(asked) + 1, time.monotonic()
    while time.monotonic() < moved_at + PATIENCE_S:
        crew.tend()
        now = len(unfinished(system, commits, asked)) + len(system.leftovers())
        if not now:
            return
        if now < left:
            left, moved_at = now, time.monotonic()
        time.sleep(0.2)


def unfinished(system: Contender, commits: Commits, asked: Mapping[str, Asked]) -> list[str]:
    """The requests without an end: those not announced as ended are looked at."""
    return system.unfinished(id for id in asked if not commits.ended[id])


def judged(
    system: Contender,
    book: Ledger,
    commits: Commits,
    crew: Crew,
    asked: Mapping[str, Asked],
    *,
    seed: int,
    took_s: float,
) -> Verdict:
    """Look at every request."""
    commits.settle()
    rows = book.by_row()
    lost = system.unfinished(asked)
    answers = {id: system.answer(id) for id in asked.keys() - set(lost)}
    kills = [*crew.kills, *_of_memory(book)]
    return Verdict(
        system=system.name,
        seed=seed,
        kills=Counter(kill.kind for kill in kills),
        accepted=len(asked),
        lost=sorted(lost),
        failed=Counter(_reason(said) for said in answers.values() if isinstance(said, Exception)),
        wrong=[id for id, said in answers.items() if not isinstance(said, Exception) and said != asked[id].answer],
        doubles=commits.doubles(),
        again=verdict.again(rows, kills),
        recovered_s=verdict.recovered_s(rows, kills, {id: asked[id].numbers[0] for id in asked}),
        leftovers=system.leftovers(),
        slow=crew.slow,
        took_s=took_s,
    )


def _reason(said: Exception) -> str:
    return f"{type(said).__name__}{', gave up' if 'gave up after' in str(said) else ''}"


def _of_memory(book: Ledger) -> list[Kill]:
    """The children that rows have killed."""
    return [Kill("memory", death.at, death.at, frozenset({death.pid}), frozenset()) for death in book.deaths()]


def _pause(crew: Crew, pause_s: float) -> None:
    deadline = time.monotonic() + pause_s
    while time.monotonic() < deadline:
        crew.tend()
        time.sleep(0.05)  # the plan's pace
