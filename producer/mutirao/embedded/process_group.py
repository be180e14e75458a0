"""Processes that end, in order, when this one does: the parent's side of the watchdog."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from mutirao.embedded import watchdog

SCRIPT = [sys.executable, "-I", "-S", watchdog.__file__]
LOG_BYTES = 10 * 1024 * 1024


class Started(msgspec.Struct, frozen=True):
    """A child and what is known about how it is to end."""

    process: subprocess.Popen[bytes]
    member: watchdog.Member


class ProcessGroup:
    """Starts children, each leading a session of its own, and has them all ended by one watchdog.

    Args:
        log: the watchdog's own log file.
        state: a file that the watchdog removes as its last act; "" for none.
        keep: file descriptors that the watchdog holds until all has ended, such as a lock.
    """

    def __init__(self, log: Path, *, state: str = "", keep: Sequence[int] = ()) -> None:
        self._children: dict[int, Started] = {}
        read, self._pipe = os.pipe()
        with open_log(log) as out:
            self._watchdog = subprocess.Popen(  # noqa: S603
                [*SCRIPT, "watch", str(os.getpid()), state],
                stdin=read,
                stdout=out,
                stderr=out,
                pass_fds=keep,
                start_new_session=True,
                cwd="/",
            )
        os.close(read)

    def start(
        self, command: Sequence[str], *, stage: int, grace_s: float, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a child that ends at this stage, lower stages first, within grace_s seconds."""
        with open_log(log) as out:
            process = subprocess.Popen(  # noqa: S603
                [*SCRIPT, "enrol", str(os.getpid()), str(self._pipe), str(stage), str(grace_s), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                pass_fds=(self._pipe,),
                start_new_session=True,
            )
        self._children[process.pid] = Started(process, watchdog.Member(stage, grace_s, process.pid))
        return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """End the rest of a dead child's group; tell the watchdog to forget its process id, which may be reused."""
        watchdog.kill(process.pid)
        self._children.pop(process.pid, None)
        with contextlib.suppress(OSError):
            os.write(self._pipe, f"- {process.pid}\n".encode())

    def watched(self) -> bool:
        """Whether the watchdog lives: without it nothing would end the children of a killed parent."""
        return self._watchdog.poll() is None

    def end(self) -> None:
        """End all children in their order and wait for it; bounded by their graces. May be called again."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        deadline = time.monotonic() + self.bound_s
        while self.watched() and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.02)
        if self._watchdog.returncode != 0:
            self._end_here()
        for child in self._children.values():
            # A leader is a zombie before its last thread has ended, and can be reaped only then.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(watchdog.KILLED_S)

    @property
    def bound_s(self) -> float:
        """The longest that the end may take: every stage uses up its grace, and what is left is killed."""
        graces: dict[int, float] = {}
        for child in self._children.values():
            graces[child.member.stage] = max(child.member.grace_s, graces.get(child.member.stage, 0.0))
        return sum(graces.values()) + len(graces) * watchdog.KILLED_S + 5.0

    def kill(self, *, below: int) -> None:
        """Kill the children of the stages below this one at once."""
        for child in list(self._children.values()):
            if child.member.stage < below:
                watchdog.kill(child.member.pid)

    def _end_here(self) -> None:
        """End the children here, by the watchdog's code: the watchdog died or hangs."""
        self._watchdog.kill()
        self._watchdog.wait()
        watchdog.end([child.member for child in self._children.values() if child.process.poll() is None])

    def _reap(self) -> None:
        for child in self._children.values():
            child.process.poll()


def open_log(path: Path) -> IO[bytes]:
    """Open a log to append to; one that has grown large makes room first and is kept once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
