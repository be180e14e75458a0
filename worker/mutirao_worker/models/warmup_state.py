"""Which models are warm, as the pool's processes tell their parent: through memory that they share since it forked them.

Before a process warms a model up it says so. So the parent sees which model a process hangs at, or has died of.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_SLOT = 512
_WARM = b"\x01"
# Of each process: its id, the model's place counted from 1 (0 for none), since when by the monotonic clock.
_ENTRY = struct.Struct("=iid")
_PROCESSES = 256


class Warming(NamedTuple):
    """A process that warms a model up, or has died of it.

    Attributes:
        number: of the process in its pool.
        pid: its id.
        model: the model's name.
        for_s: for how long already.
    """

    number: int
    pid: int
    model: str
    for_s: float


class WarmupState:
    """What the latest warm-up of each model came to, in whichever process it was, and who is at it now."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the models' names, before any process is forked; none of them is warm yet."""
        self._names = sorted(names)
        self._places = {name: at * _SLOT for at, name in enumerate(self._names)}
        self._entries = _SLOT * len(self._names)
        self._shared = mmap.mmap(-1, self._entries + _ENTRY.size * _PROCESSES)

    def begin(self, name: str, number: int) -> None:
        """Say that this process, of this number in its pool, warms a model up from now on."""
        self._note(number, os.getpid(), self._names.index(name) + 1)

    def done(self, number: int) -> None:
        """Say that this process warms nothing up any more."""
        self._note(number, 0, 0)

    def warming(self) -> Iterator[Warming]:
        """Find the processes that have begun to warm a model up, and have not ended it."""
        now = time.monotonic()
        for number in range(_PROCESSES):
            pid, place, since = _ENTRY.unpack_from(self._shared, self._entries + _ENTRY.size * number)
            if place:
                yield Warming(number, pid, self._names[place - 1], now - since)

    def tell(self, name: str, failure: str = "") -> None:
        """Say how a model's warm-up ended.

        Args:
            name: the model.
            failure: what went wrong; empty where it is warm.
        """
        text = failure.encode()[: _SLOT - 1] or _WARM
        at = self._places[name]
        self._shared[at : at + _SLOT] = text.ljust(_SLOT, b"\0")

    def failure(self, name: str) -> str | None:
        """Return what went wrong with a model's warm-up: "" where it is warm, None where no process has said yet."""
        at = self._places[name]
        text = self._shared[at : at + _SLOT].rstrip(b"\0")
        return None if not text else "" if text == _WARM else text.decode(errors="ignore")

    def _note(self, number: int, pid: int, place: int) -> None:
        at = self._entries + _ENTRY.size * (number % _PROCESSES)
        _ENTRY.pack_into(self._shared, at, pid, place, time.monotonic())
