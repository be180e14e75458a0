"""End the embedded system's processes, in order, when the process that started them ends, however it ends.

A script of its own, run by the bare interpreter (`python -I -S watchdog.py`): it imports nothing that could fail or be slow, and
outlives a killed parent. Its standard input is a pipe from the parent, with one message a line:

    + STAGE GRACE_S PID    a process was started; it leads its own process group
    - PID                  it ended, and its parent has reaped it

End of file means: the parent is gone, or stops the system. Stage after stage, each group's leader gets SIGTERM (Celery's warm
shutdown would not survive it in the whole group) and has GRACE_S seconds to end; then what is left of the group is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

KILLED_S = 5.0


class Member(NamedTuple):
    """A process group that is to end with the parent; lower stages end first."""

    stage: int
    grace_s: float
    pid: int


def end(members: list[Member]) -> None:
    """End all groups, stage after stage, in bounded time."""
    for stage in sorted({member.stage for member in members}):
        _end_stage([member for member in members if member.stage == stage])


def alive(group: int) -> bool:
    """Whether any process of this group still runs; macOS answers EPERM where only unreaped ones are left."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return not _only_zombies(_states(group))


def kill(pid: int) -> None:
    """Kill the whole group, if it is still there."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _end_stage(members: list[Member]) -> None:
    for member in members:
        _terminate(member.pid)
    deadlines = {member.pid: time.monotonic() + member.grace_s for member in members}
    while left := [pid for pid in deadlines if alive(pid)]:
        for pid in left:
            over_s = time.monotonic() - deadlines[pid]
            # What a leader has left behind at its end would never end by itself.
            if over_s > 0 or not _leads(pid):
                kill(pid)
            if over_s > KILLED_S:
                _log(f"group {pid} does not end, even killed")
                del deadlines[pid]
        time.sleep(0.05)


def _states(group: int) -> dict[int, str]:
    """Return the state of each process of a group; nothing where there is no /proc, which only Linux has."""
    states: dict[int, str] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, number, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(number) == group:
                states[int(stat.parent.name)] = state
    return states


def _only_zombies(states: dict[int, str]) -> bool:
    """Whether none of them runs any more: the first process of a container often reaps no orphans."""
    return bool(states) and set(states.values()) == {"Z"}


def _leads(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return _states(pid).get(pid) != "Z"


def _terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGTERM)


def _watched(parent: int) -> list[Member]:
    """Read the parent's messages until it is gone; a child that it forked may hold the pipe open, so its id is checked too."""
    members: dict[int, Member] = {}
    for line in _lines(parent):
        _update(members, line.decode().split())
    return list(members.values())


def _lines(parent: int) -> Iterator[bytes]:
    os.set_blocking(0, False)
    rest = b""
    while True:
        gone = os.getppid() != parent
        select.select([0], [], [], 0.0 if gone else 1.0)
        try:
            read = os.read(0, 65536)
        except BlockingIOError:
            if gone:  # and all that was written while it lived has been read
                return
            continue
        if not read:
            return
        *lines, rest = (rest + read).split(b"\n")
        yield from lines


def _update(members: dict[int, Member], words: list[str]) -> None:
    match words:
        case ["+", stage, grace_s, pid]:
            members[int(pid)] = Member(int(stage), float(grace_s), int(pid))
        case ["-", pid]:
            members.pop(int(pid), None)


def _watch(parent: int, state: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    members = _watched(parent)
    _log(f"process {parent} is gone or stops the system: ending {len(members)} groups")
    end(members)
    if state:
        Path(state).unlink(missing_ok=True)
    _log("all ended")


def _enrol(parent: int, pipe: int, stage: str, grace_s: str, command: list[str]) -> None:
    """Register with the watchdog, then become the command, so that a parent killed at any moment loses no child.

    If the parent lives after the line was written, the watchdog reads the line; if not, it may not, and there is no more to do.
    """
    os.write(pipe, f"+ {stage} {grace_s} {os.getpid()}\n".encode())
    if os.getppid() != parent:
        sys.exit(f"process {parent} is gone: {command[0]} is not started")
    os.set_inheritable(pipe, False)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


def _log(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["watch", parent, state]:
            _watch(int(parent), state)
        case ["enrol", parent, pipe, stage, grace_s, *command]:
            _enrol(int(parent), int(pipe), stage, grace_s, command)
