"""What a model may change of its process for all others: put back after each call where it can be, else told, so that the process is replaced.

A process's native threads are not looked at: libraries keep teams of them. Nor is random state: a model that seeds a generator that all
share has it so.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the same functions, but for the names that `signal` looks up of each: a tenth of the time
import contextlib
import gc
import locale
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

_SIGNALS = tuple(
    int(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE")
    if hasattr(signal, name)
)
_OPEN = "/dev/fd"


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - a call for every prediction
    except OSError:  # it has been removed
        return ""


def _change_folder(folder: str) -> None:
    if folder:
        os.chdir(folder)


def _mask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _set_environment(wanted: dict[bytes, bytes]) -> None:
    found = os.environb
    for name in [name for name in found if name not in wanted]:
        del found[name]
    found.update(wanted)


def _set_streams(streams: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


def _set_handlers(handlers: tuple[Any, ...]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) != handler:  # None is native code's own
            signal.signal(number, handler)


def _set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001


def _state() -> tuple[Any, ...]:
    """Read all of it: twice for every call of a model, so each is read in the way that costs least."""
    return (
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        gc.isenabled(),
        _folder(),
        _mask(),
        os.environ._data.copy(),  # type: ignore[attr-defined]  # noqa: SLF001 - a tenth of the time
        locale.setlocale(locale.LC_ALL),
        (sys.stdin, sys.stdout, sys.stderr),
        tuple(map(_signal.getsignal, _SIGNALS)),
        _signal.pthread_sigmask(_signal.SIG_BLOCK, ()),
        _signal.getitimer(_signal.ITIMER_REAL)[0] > 0,
        np.geterr(),
        list(warnings.filters),
    )


# How each is put back, in the same order. The recursion limit first: what follows must be able to run.
_PUT: tuple[Callable[[Any], object], ...] = (
    sys.setrecursionlimit,
    sys.setswitchinterval,
    lambda on: gc.enable() if on else gc.disable(),
    _change_folder,
    os.umask,
    _set_environment,
    lambda name: locale.setlocale(locale.LC_ALL, name),
    _set_streams,
    _set_handlers,
    lambda held: signal.pthread_sigmask(signal.SIG_SETMASK, held),
    lambda runs: runs or signal.setitimer(signal.ITIMER_REAL, 0),
    lambda how: np.seterr(**how),
    _set_filters,
)


@contextlib.contextmanager
def preserved_process_state() -> Iterator[None]:
    """Put back what a model changes of its process; in a thread beside others, what numpy keeps for each thread alone."""
    if threading.current_thread() is not threading.main_thread():
        with np.errstate():
            yield
        return
    before = _state()
    try:
        yield
    finally:
        sys.setrecursionlimit(before[0])
        after = _state()
        if after != before:
            for put, was, now in zip(_PUT, before, after, strict=True):
                if now != was:
                    put(was)


class Leak(NamedTuple):
    """What models have left behind in a process: in words, since it was last asked for, and how much of it there is in all."""

    description: str
    total: int


class LeakDetector:
    """Descriptors that are left open, and Python threads that are left running, counted from when this was made."""

    def __init__(self) -> None:
        """Take this as the state that a process should be in."""
        self._first = self._seen = _counted()
        self._free = _lowest_free()

    def new_leak(self) -> Leak | None:
        """Look for leftovers since the last look; None where there are none.

        What is opened gets the lowest number that is free, so two system calls tell whether all is as it was.
        """
        if _lowest_free() == self._free and threading.active_count() == self._seen[1]:
            return None
        before, self._seen, self._free = self._seen, _counted(), _lowest_free()
        words = [
            f"{now - then} {noun}{'' if now - then == 1 else 's'}"
            for now, then, noun in zip(self._seen, before, ("descriptor", "thread"), strict=True)
            if now > then
        ]
        total = sum(max(0, now - then) for now, then in zip(self._seen, self._first, strict=True))
        return Leak(" and ".join(words), total) if words else None


def _counted() -> tuple[int, int]:
    return len(os.listdir(_OPEN)), threading.active_count()  # noqa: PTH208 - it is no folder of files


def _lowest_free() -> int:
    try:
        found = os.dup(0)
    except OSError:  # it has been closed
        return 0
    os.close(found)
    return found
