"""The supervisor of child processes: a child that dies is started again, each time after a longer wait."""

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
    """How to run one child.

    Attributes:
        stage: its place in the order of the end; lower stages end first.
        grace_s: how long it may take to end before it is killed.
        deaths: the number of deaths in a row after which the whole system gives up; 0 for never.
        restart: called after a death; returns the command to start it again with, and a remark for the user, or an empty one.
    """

    name: str
    command: Sequence[str]
    stage: int
    grace_s: float
    log: Path
    env: Mapping[str, str]
    deaths: int = 0
    restart: Callable[[], tuple[Sequence[str], str]] | None = None


class ChildExit(msgspec.Struct, frozen=True):
    """A child's death: it starts again after restart_s seconds, perhaps elsewhere; None where the system gives up."""

    name: str
    pid: int
    cause: str
    restart_s: float | None
    log: Path
    moved: str = ""

    def __str__(self) -> str:
        after = "giving up" if self.restart_s is None else f"starting it again in {self.restart_s:g} s"
        return f"{self.name} (process {self.pid}) {self.cause}; {after}{self.moved and f' {self.moved}'}; its log: {self.log}"


class Supervisor:
    """Watches the children of one system from a thread of its own.

    Args:
        processes: where they are started.
        report: called with each child's death, from the thread.
    """

    def __init__(self, processes: ProcessGroup, report: Callable[[ChildExit], None]) -> None:
        self._processes = processes
        self._report = report
        self._children: dict[str, _Child] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mutirao-supervisor", daemon=True)
        self.failure = ""

    def start(self, spec: ChildSpec) -> None:
        """Start a child and keep it running, in the place of an ended one of the same name."""
        if ended := self._children.get(spec.name):
            self._processes.forget(ended.process)
        self._children[spec.name] = _Child(spec, self._launch(spec))

    def watch(self) -> None:
        """Start watching the children."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching the children, so that they may end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def deaths(self, name: str) -> int:
        """Return how often in a row this child died soon after its start."""
        return self._children[name].deaths

    def started_at(self, name: str) -> float:
        """Return when the child was last started, in seconds since the epoch."""
        return self._children[name].started_at

    def pids(self) -> dict[str, int]:
        """Return the children's process ids by name."""
        return {name: child.process.pid for name, child in self._children.items()}

    def ended(self, name: str) -> bool:
        """Whether the child is not running now."""
        return self._children[name].process.poll() is not None

    def _run(self) -> None:
        while not self.failure and not self._stop.wait(0.1):
            if not self._processes.watched():
                self.failure = "the watchdog was killed, and without it a killed parent would leave orphans"
            for child in list(self._children.values()):
                self._check(child, time.monotonic())

    def _check(self, child: _Child, now: float) -> None:
        if child.restart_at is not None and now >= child.restart_at:
            child.started(self._launch(child.spec))
        elif child.restart_at is None and child.process.poll() is not None:
            self._on_exit(child, now)

    def _launch(self, spec: ChildSpec) -> Popen[bytes]:
        return self._processes.start(spec.command, stage=spec.stage, grace_s=spec.grace_s, log=spec.log, env=spec.env)

    def _on_exit(self, child: _Child, now: float) -> None:
        self._processes.forget(child.process)
        child.deaths = 1 if now - child.since > STEADY_S else child.deaths + 1
        gives_up = 0 < child.spec.deaths <= child.deaths
        restart_s = None if gives_up else backoff_s(child.deaths)
        child.restart_at = now + (restart_s or 0.0)
        cause, moved = describe_exit(child.process.returncode), ""
        if child.spec.restart and not gives_up:
            command, moved = child.spec.restart()
            child.spec = msgspec.structs.replace(child.spec, command=command)
        child_exit = ChildExit(child.spec.name, child.process.pid, cause, restart_s, child.spec.log, moved)
        if gives_up:
            self.failure = f"{child.spec.name} died {child.deaths} times in a row, the last time it {child_exit.cause}"
        self._report(child_exit)


class _Child:
    """A child and its current process; `restart_at` is None while it runs."""

    def __init__(self, spec: ChildSpec, process: Popen[bytes]) -> None:
        self.spec = spec
        self.deaths = 0
        self.started(process)

    def started(self, process: Popen[bytes]) -> None:
        self.process = process
        self.restart_at: float | None = None
        self.since = time.monotonic()
        self.started_at = time.time()


def backoff_s(deaths: int) -> float:
    """Return the wait before a restart: 0.5 s after the first death in a row, doubled by each further one, 30 s at most."""
    return min(0.5 * 2.0 ** min(deaths - 1, 10), LONGEST_S)


def describe_exit(returncode: int) -> str:
    """Describe how a process ended."""
    if returncode >= 0:
        return f"ended with code {returncode}"
    return f"was ended by {signal.Signals(-returncode).name}"
