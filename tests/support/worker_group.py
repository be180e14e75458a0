"""Several workers that are killed in every way there is, and started again.

with WorkerGroup(system, 2) as workers:
    workers.kill("SIGKILL", 0.3)
    workers.restart_ended()
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Self

import psutil

from support import waiting
from support.trial_systems import TrialSystem
from support.worker_process import WorkerProcess

STOPPED_S = 10.0  # longer than a lease, and than it takes others to see that it has lapsed
GRACE_S = 30.0

_ID = re.compile(rb'"id":\s*"([^"]*)"')


class Kill(NamedTuple):
    """What was done, when, to which processes, and which requests the worker held then."""

    kind: str
    at: float
    until: float
    pids: frozenset[int]
    held: frozenset[str]


class Member:
    """One worker, and what is to happen to it."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.resume_at = 0.0
        self.end_by = 0.0

    @property
    def ready(self) -> bool:
        """It serves, and nothing has been done to it that it has not got over."""
        return not self.resume_at and not self.end_by and self.alive and f"{self.worker.name} ready." in self.worker.log

    @property
    def alive(self) -> bool:
        return self.worker.process.poll() is None

    @property
    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return self.worker.children
        return []

    def signal(self, number: signal.Signals, *, group: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.worker.pid, number)


class WorkerGroup:
    """Starts in `with`, and is ended by it."""

    def __init__(self, system: TrialSystem, size: int) -> None:
        self._system = system
        self._names = [f"crew{place}-{os.getpid()}@{socket.gethostname()}" for place in range(size)]
        self.members: list[Member] = []
        self.kills: list[Kill] = []
        self.gone: list[str] = []  # the last words of those that were replaced
        self.slow: Counter[str] = Counter()  # asked to end, and did not in time

    def wait_ready(self, *, all_of_them: bool = True) -> None:
        """Wait for the whole crew, or for any of it."""
        waiting.until(lambda: self._ready(len(self.members) if all_of_them else 1), timeout_s=90, what=self.logs)

    def kill(self, kind: str, choice: float) -> None:
        """Do this to one of those that are ready; choice, from 0 to 1, says to which."""
        self.wait_ready(all_of_them=False)
        ready = [member for member in self.members if member.ready]
        place = choice * len(ready)
        DEEDS[kind](self, kind, ready[int(place)], place % 1)

    def restart_ended(self) -> None:
        """Let those that were stopped go on, and start those again that ended."""
        for place, member in enumerate(self.members):
            if member.resume_at and time.monotonic() > member.resume_at:
                member.signal(signal.SIGCONT, group=True)
                member.resume_at = 0.0
            if member.end_by and time.monotonic() > member.end_by and member.alive:
                self.slow[f"{member.worker.name} {member.worker.pid}"] += 1
                member.signal(signal.SIGKILL, group=True)
            if not member.alive:
                self.members[place] = self._replaced(member)

    def logs(self) -> str:
        """The last words of all workers, those that were replaced first."""
        return "\n".join([*self.gone, *(_last_words(member.worker) for member in self.members)])

    def rest(self) -> None:
        """Wait until all that lasts has passed, and the whole crew serves."""
        self.wait_ready()

    def __enter__(self) -> Self:
        self.members = [Member(self._system.worker(name)) for name in self._names]
        return self

    def __exit__(self, *exc: object) -> None:
        for member in self.members:
            member.signal(signal.SIGCONT, group=True)
            member.worker.close()

    def _ready(self, count: int) -> bool:
        self.restart_ended()
        return sum(member.ready for member in self.members) >= count

    def _replaced(self, member: Member) -> Member:
        self.gone.append(_last_words(member.worker))
        member.worker.close()
        return Member(self._system.worker(member.worker.name))

    def _note(self, kind: str, pids: list[int], *, held: frozenset[str] = frozenset(), lasts_s: float = 0.0) -> None:
        now = time.time()
        self.kills.append(Kill(kind, now, now + lasts_s, frozenset(pids), held))

    def _sigkill(self, kind: str, member: Member, _: float) -> None:
        pids = [member.worker.pid, *(child.pid for child in member.children)]
        member.worker.kill()
        held = {found[1].decode() for raw in self._system.held(member.worker).values() if (found := _ID.search(raw))}
        self._note(kind, pids, held=frozenset(held))

    def _child(self, kind: str, member: Member, choice: float) -> None:
        if children := member.children:
            child = children[int(choice * len(children))]
            with contextlib.suppress(psutil.Error):
                child.kill()
            self._note(kind, [child.pid])

    def _end(self, kind: str, member: Member, _: float) -> None:
        self._note(kind, [member.worker.pid, *(child.pid for child in member.children)], lasts_s=GRACE_S)
        member.signal(signal.Signals[kind], group=False)
        member.end_by = time.monotonic() + GRACE_S

    def _stop(self, kind: str, member: Member, choice: float) -> None:
        """The whole worker, as when its machine hangs, or only its main process, whose children go on."""
        pids = [member.worker.pid, *(child.pid for child in member.children)]
        self._note(kind, pids, lasts_s=STOPPED_S + 2)
        member.signal(signal.SIGSTOP, group=choice < 0.5)
        member.resume_at = time.monotonic() + STOPPED_S


def _last_words(worker: WorkerProcess) -> str:
    return f"--- {worker.name}, process {worker.pid}, exit code {worker.process.poll()}\n{worker.log[-4000:]}"


DEEDS: dict[str, Callable[[WorkerGroup, str, Member, float], None]] = {
    "SIGKILL": WorkerGroup._sigkill,
    "child": WorkerGroup._child,
    "SIGTERM": WorkerGroup._end,
    "SIGQUIT": WorkerGroup._end,
    "SIGSTOP": WorkerGroup._stop,
}
