"""Process state that a model changes for all others: restored after each call where possible, else reported, so that the process is replaced.

Native threads are not checked: libraries keep teams of them. Nor is random state: a model may seed the generator that all share.
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


def _working_folder() -> str:
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


def _set_environment(variables: dict[bytes, bytes]) -> None:
    for name in os.environb.keys() - variables.keys():
        del os.environb[name]
    os.environb.update(variables)


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
    """Read the state: twice for every call of a model, so each part is read in the way that costs least."""
    return (
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        gc.isenabled(),
        _working_folder(),
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


# How each part is restored, in the same order. The recursion limit first: what follows must be able to run.
_RESTORE: tuple[Callable[[Any], object], ...] = (
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
    """Restore what a model changes of its process; in a thread among others, only what numpy keeps for each thread."""
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
            for restore, was, now in zip(_RESTORE, before, after, strict=True):
                if now != was:
                    restore(was)


class Leak(NamedTuple):
    """What models have left open or running in a process: in words, what is new; and how much there is in total."""

    description: str
    total: int


class LeakDetector:
    """Counts descriptors that are left open and Python threads that are left running, from its construction on."""

    def __init__(self) -> None:
        self._baseline = self._last = _count()
        self._lowest_free = _lowest_free()

    def new_leak(self) -> Leak | None:
        """Return what has leaked since the last call; None for nothing.

        What is opened gets the lowest number that is free, so two system calls tell whether all is as it was.
        """
        if _lowest_free() == self._lowest_free and threading.active_count() == self._last[1]:
            return None
        before, self._last, self._lowest_free = self._last, _count(), _lowest_free()
        words = [
            f"{now - then} {noun}{'' if now - then == 1 else 's'}"
            for now, then, noun in zip(self._last, before, ("descriptor", "thread"), strict=True)
            if now > then
        ]
        total = sum(max(0, now - then) for now, then in zip(self._last, self._baseline, strict=True))
        return Leak(" and ".join(words), total) if words else None


def _count() -> tuple[int, int]:
    return len(os.listdir(_OPEN)), threading.active_count()  # noqa: PTH208 - it is no folder of files


def _lowest_free() -> int:
    try:
        number = os.dup(0)
    except OSError:  # it has been closed
        return 0
    os.close(number)
    return number
