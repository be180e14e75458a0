"""Keep the children running: a child that dies is started again, each time after a longer wait."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import Popen

import msgspec

from mutirao.embedded.process_group import ProcessGroup

STEADY_S = 30.0
LONGEST_S = 30.0


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One child that is to run.

    Attributes:
        stage: when it ends: lower stages first.
        grace_s: how long it may take to end before it is killed.
        deaths: after how many deaths in a row the whole system gives up; 0 for never.
        again: asked after a death: the command by which it starts again, and what people should know of that, if anything.
    """

    name: str
    command: Sequence[str]
    stage: int
    grace_s: float
    log: Path
    env: Mapping[str, str]
    deaths: int = 0
    again: Callable[[], tuple[Sequence[str], str]] | None = None


class ChildExit(msgspec.Struct, frozen=True):
    """A child died, and what follows: it starts again after again_s seconds, or, None, the system gives up; elsewhere perhaps."""

    name: str
    pid: int
    cause: str
    again_s: float | None
    log: Path
    moved: str = ""

    def __str__(self) -> str:
        after = "giving up" if self.again_s is None else f"starting it again in {self.again_s:g} s"
        return f"{self.name} (process {self.pid}) {self.cause}; {after}{self.moved and f' {self.moved}'}; its log: {self.log}"


class Supervisor:
    """Watches the children of one system from a thread of its own.

    Args:
        processes: where they are started.
        report: called with each incident, from the thread.
    """

    def __init__(self, processes: ProcessGroup, report: Callable[[ChildExit], None]) -> None:
        self._processes = processes
        self._report = report
        self._children: dict[str, _Child] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mutirao-supervisor", daemon=True)
        self.failure = ""

    def start(self, role: ChildSpec) -> None:
        """Start a child and keep it running."""
        self._children[role.name] = _Child(role, self._launched(role))

    def watch(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more, so that the children may end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def deaths(self, name: str) -> int:
        """Count how often in a row this child died soon after its start."""
        return self._children[name].deaths

    def started_at(self, name: str) -> float:
        """Tell when the child was last started, in seconds since the epoch."""
        return self._children[name].started_at

    def pids(self) -> dict[str, int]:
        """Name the children and their process ids."""
        return {name: child.process.pid for name, child in self._children.items()}

    def ended(self, name: str) -> bool:
        """Whether the child is not running now."""
        return self._children[name].process.poll() is not None

    def _run(self) -> None:
        while not self.failure and not self._stop.wait(0.1):
            if not self._processes.watched():
                self.failure = "the watchdog was killed, and without it a killed parent would leave orphans"
            for child in list(self._children.values()):
                self._look_after(child, time.monotonic())

    def _look_after(self, child: _Child, now: float) -> None:
        if child.due is not None and now >= child.due:
            child.started(self._launched(child.role))
        elif child.due is None and child.process.poll() is not None:
            self._mourn(child, now)

    def _launched(self, role: ChildSpec) -> Popen[bytes]:
        return self._processes.start(role.command, stage=role.stage, grace_s=role.grace_s, log=role.log, env=role.env)

    def _mourn(self, child: _Child, now: float) -> None:
        self._processes.forget(child.process)
        child.deaths = 1 if now - child.since > STEADY_S else child.deaths + 1
        given_up = 0 < child.role.deaths <= child.deaths
        again_s = None if given_up else backoff_s(child.deaths)
        child.due = now + (again_s or 0.0)
        cause, moved = ending(child.process.returncode), ""
        if child.role.again and not given_up:
            command, moved = child.role.again()
            child.role = msgspec.structs.replace(child.role, command=command)
        incident = ChildExit(child.role.name, child.process.pid, cause, again_s, child.role.log, moved)
        if given_up:
            self.failure = f"{child.role.name} died {child.deaths} times in a row, the last time it {incident.cause}"
        self._report(incident)


class _Child:
    """A role and its process of the moment; `due` is when it starts again, None while it runs."""

    def __init__(self, role: ChildSpec, process: Popen[bytes]) -> None:
        self.role = role
        self.deaths = 0
        self.started(process)

    def started(self, process: Popen[bytes]) -> None:
        self.process = process
        self.due: float | None = None
        self.since = time.monotonic()
        self.started_at = time.time()


def backoff_s(deaths: int) -> float:
    """Wait half a second after the first death in a row, twice as long after each further one, 30 s at most."""
    return min(0.5 * 2.0 ** min(deaths - 1, 10), LONGEST_S)


def ending(returncode: int) -> str:
    """Say how a process ended."""
    if returncode >= 0:
        return f"ended with code {returncode}"
    return f"was ended by {signal.Signals(-returncode).name}"
