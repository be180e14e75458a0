"""Which models are warm: recorded by the pool's processes in memory that they share with their parent.

A process records the start of a warm-up too, so the parent sees at which model a process hangs, or has died.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_OUTCOME_BYTES = 512
_WARM = b"\x01"
# Of each process: its id, the model's number from 1 (0 for none), and the monotonic time at which its warm-up started.
_PROCESS_ENTRY = struct.Struct("=iid")
_PROCESSES = 256


class WarmUpInProgress(NamedTuple):
    """A warm-up that a process has started and not finished; the process may be dead.

    Attributes:
        process_index: the process's number in its pool.
        pid: the process's id.
        model: the model's name.
        elapsed_s: for how long.
    """

    process_index: int
    pid: int
    model: str
    elapsed_s: float


class WarmupState:
    """The outcome of each model's latest warm-up, in whichever process it was, and the warm-ups in progress."""

    def __init__(self, names: Iterable[str]) -> None:
        """Allocate the shared memory, before any process is forked; no model is warm yet."""
        self._names = sorted(names)
        self._offsets = {name: offset * _OUTCOME_BYTES for offset, name in enumerate(self._names)}
        self._entries_offset = _OUTCOME_BYTES * len(self._names)
        self._shared = mmap.mmap(-1, self._entries_offset + _PROCESS_ENTRY.size * _PROCESSES)

    def start(self, name: str, process_index: int) -> None:
        """Record that this process, of this number in its pool, starts to warm a model up."""
        self._write_entry(process_index, os.getpid(), self._names.index(name) + 1)

    def finish(self, process_index: int) -> None:
        """Record that this process warms nothing up any more."""
        self._write_entry(process_index, 0, 0)

    def in_progress(self) -> Iterator[WarmUpInProgress]:
        """Return the warm-ups that have started and not finished."""
        now = time.monotonic()
        for process_index in range(_PROCESSES):
            pid, model_number, started_at = _PROCESS_ENTRY.unpack_from(
                self._shared, self._entries_offset + _PROCESS_ENTRY.size * process_index
            )
            if model_number:
                yield WarmUpInProgress(process_index, pid, self._names[model_number - 1], now - started_at)

    def record(self, name: str, failure: str = "") -> None:
        """Record the outcome of a model's warm-up.

        Args:
            name: the model.
            failure: what went wrong; empty where the model is warm.
        """
        text = failure.encode()[: _OUTCOME_BYTES - 1] or _WARM
        offset = self._offsets[name]
        self._shared[offset : offset + _OUTCOME_BYTES] = text.ljust(_OUTCOME_BYTES, b"\0")

    def failure(self, name: str) -> str | None:
        """Return what went wrong with a model's warm-up: "" where it is warm, None where no process has finished one yet."""
        offset = self._offsets[name]
        text = self._shared[offset : offset + _OUTCOME_BYTES].rstrip(b"\0")
        return None if not text else "" if text == _WARM else text.decode(errors="ignore")

    def _write_entry(self, process_index: int, pid: int, model_number: int) -> None:
        offset = self._entries_offset + _PROCESS_ENTRY.size * (process_index % _PROCESSES)
        _PROCESS_ENTRY.pack_into(self._shared, offset, pid, model_number, time.monotonic())
