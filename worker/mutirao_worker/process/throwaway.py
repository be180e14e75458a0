"""A throwaway process: a function runs in a fork of this process, within limits of time and memory; what it does there cannot hurt this one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable

import psutil

_POLL_S = 0.02
_BLOCK = 1 << 16
# Of what is free, where no limit is set.
_FREE_SHARE = 0.8
_PR_SET_PDEATHSIG = 1


class Ended(Exception):
    """The process ended without a result; its text says how."""


def run(function: Callable[[], bytes], *, seconds: float, max_bytes: int = 0) -> bytes:
    """Return what a function returns in a fork of this process, whose standard output is its standard error.

    Args:
        function: what to run; the fork has but the thread that calls it, so this process should have no other.
        seconds: after which the fork is killed.
        max_bytes: of memory that it may take besides what it shares with this process; 0 for four fifths of what is free.

    Raises:
        Ended: it did not end in time, took too much memory, or ended by itself.
    """
    limit = max_bytes or int(psutil.virtual_memory().available * _FREE_SHARE)
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as exc:
        os.close(read)
        os.close(write)
        raise Ended(f"could not be started: {exc.strerror}") from exc
    if not pid:
        os.close(read)
        _run_and_exit(function, write, parent)
    os.close(write)
    try:
        return _watch(pid, read, time.monotonic() + seconds, seconds, limit)
    finally:
        os.close(read)
        with contextlib.suppress(psutil.Error):  # what the function has started, even in a session of its own
            for process in psutil.Process(pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        for kill in (os.kill, os.killpg):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _run_and_exit(function: Callable[[], bytes], write: int, parent: int) -> None:
    code = os.EX_SOFTWARE
    try:
        os.setsid()
        _end_with(parent)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        result = memoryview(function())
        while result:
            result = result[os.write(write, result) :]
        code = os.EX_OK
    finally:
        os._exit(code)


def _end_with(parent: int) -> None:
    """Be killed where the parent ends: nobody watches the limits then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os._exit(os.EX_SOFTWARE)


def _watch(pid: int, read: int, until: float, seconds: float, limit: int) -> bytes:
    """Read a result to its end."""
    parts, process = [], psutil.Process(pid)
    before = _memory(process)
    while True:
        if select.select([read], [], [], _POLL_S)[0]:
            part = os.read(read, _BLOCK)
            if not part:
                break
            parts.append(part)
        if time.monotonic() > until:
            raise Ended(f"did not end within {seconds:g} s")
        if _memory(process) - before > limit:
            raise Ended(f"took more than {limit / 2**20:,.0f} MiB of memory")
    status = os.waitstatus_to_exitcode(_wait(pid, until, seconds))
    if status < 0:
        raise Ended(f"was ended by {_signal_name(-status)}")
    if not parts or status:
        raise Ended(f"ended its process with exit code {status}")
    return b"".join(parts)


def _wait(pid: int, until: float, seconds: float) -> int:
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > until:
            raise Ended(f"did not end within {seconds:g} s")
        select.select([], [], [], 0.001)


def _signal_name(number: int) -> str:
    """Return a signal's name; those of real time have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _memory(process: psutil.Process) -> int:
    """Return the bytes that a process has in memory; 0 once it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
