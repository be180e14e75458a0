"""Reads what the pool's processes write to their parent, message by message; one that writes anything else is killed.

A process's pipe is open to whatever its models do: native code, or a loop over descriptors, may write to it. Each message has its length
before it, so after one stray byte nothing in that pipe can be believed. Celery's own reader would wait for ever for what is never said.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import signal
import struct
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from billiard.pool import ACK, DEATH, READY, TERMINATE
from celery.concurrency.asynpool import WORKER_UP

logger = logging.getLogger(__name__)

_HEADER = struct.Struct(">i")
_CHUNK = 1 << 16  # what a pipe holds
# At a stop there is no loop that watches for something to read.
STOPPING_MS = 500


class InvalidFrame(Exception):
    """What a process has written is no message."""


class ProcessPipes:
    """Reads the processes of one pool, in place of Celery's own reader."""

    def __init__(self, pool: Any, most: int) -> None:
        """Take Celery's pool, and how many bytes a message may have; from now on the pool reads through this."""
        self._pool = pool
        self._most = most
        self._handler = pool._result_handler  # noqa: SLF001 - billiard's only way
        self._hub: Any = None
        self._parts: weakref.WeakKeyDictionary[Any, bytearray] = weakref.WeakKeyDictionary()
        self._ended: weakref.WeakSet[Any] = weakref.WeakSet()
        self._handler._make_process_result = self._readable  # noqa: SLF001
        self._handler._flush_outqueue = self._flush  # noqa: SLF001
        pool.process_flush_queues = self._read_last_messages

    def read(self, process: Any, wait_ms: int = 0) -> bool:
        """Read what a process has written: whole messages, and a part that the next is to complete; False where there is nothing.

        Args:
            process: of the pool.
            wait_ms: how long to wait for anything.
        """
        reader = process.outq._reader  # noqa: SLF001
        if reader.closed or process in self._ended or (wait_ms and not _readable(reader.fileno(), wait_ms)):
            return False
        try:
            has_read = self._fill(process, reader.fileno())
            for message in self._messages(process):
                self._check(process, message)
                self._handler.on_state_change(message)
        except (InvalidFrame, MemoryError) as exc:
            self._end(process, exc)
            return False
        except (OSError, EOFError):
            if self._hub is not None:
                self._hub.remove_reader(reader.fileno())
            return False
        return has_read

    def _readable(self, hub: Any) -> Callable[[int], None]:
        """Make what the loop calls when a process has written."""
        self._hub = hub

        def heard(number: int) -> None:
            process = self._handler.fileno_to_outq.get(number)
            if process is None:
                hub.remove_reader(number)
            else:
                self.read(process)

        return heard

    def _flush(self, number: int, remove: Callable[[int], None], processes: dict[int, Any], *_: Any) -> None:
        """Read a process while the pool stops."""
        process = processes.get(number)
        if process is None or process.outq._reader.closed:  # noqa: SLF001
            remove(number)
        elif not self.read(process, STOPPING_MS) and process in self._ended:
            process._popen.wait(timeout=STOPPING_MS / 1000)  # noqa: SLF001

    def _read_last_messages(self, process: Any) -> None:
        """Read what a process that has ended wrote before; a pipe in which half a message is left serves no other process."""
        while self._pool._state != TERMINATE and self.read(process):  # noqa: SLF001
            pass
        if (self._parts.pop(process, None) or process in self._ended) and not process.dead:
            process.dead = True
            with contextlib.suppress(ValueError):  # they are another's by now
                queues = self._pool._find_worker_queues(process)  # noqa: SLF001
                if self._pool.destroy_queues(queues, process):
                    self._pool._queues[self._pool.create_process_queues()] = None  # noqa: SLF001

    def _fill(self, process: Any, number: int) -> bool:
        """Keep what is in the pipe, which never blocks."""
        try:
            chunk = os.read(number, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            raise EOFError
        self._parts.setdefault(process, bytearray()).extend(chunk)
        return True

    def _messages(self, process: Any) -> Iterator[Any]:
        """Take the messages that are there as a whole."""
        while len(part := self._parts.get(process, b"")) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(part)
            if not 0 < size <= self._most:
                raise InvalidFrame(f"a message of {size:,} bytes, of {self._most:,} allowed")
            end = _HEADER.size + size
            if len(part) < end:
                return
            del self._parts[process]
            if len(part) > end:
                self._parts[process] = bytearray(part[end:])
            yield _unpickled(memoryview(part)[_HEADER.size : end])

    def _check(self, process: Any, message: Any) -> None:
        """Hold a message against what this process has to say."""
        match message:
            case (int(state), (int(pid),)) if state == WORKER_UP and pid == process.pid:
                return
            case (int(state), (int(pid), _)) if state == DEATH and pid == process.pid:
                return
            case (int(state), (int(), _, float(), int(pid), _)) if state == ACK and pid == process.pid:
                return
            case (int(state), (int(), _, (bool(), _), int(number))) if state == READY and number == process.inqW_fd:
                return
        raise InvalidFrame("it says nothing that a process has to say")

    def _end(self, process: Any, why: BaseException) -> None:
        logger.error("process %d wrote to its parent's pipe what is no message (%s): it is killed", process.pid, why)
        self._ended.add(process)
        if self._hub is not None:
            self._hub.remove_reader(process.outqR_fd)
        process._controlled_termination = True  # noqa: SLF001 - or it is said twice
        os.kill(process.pid, signal.SIGKILL)


def _unpickled(raw: memoryview) -> Any:
    if raw[0] != pickle.PROTO[0] or raw[-1] != pickle.STOP[0]:
        raise InvalidFrame("it is no pickle")
    try:
        return pickle.loads(raw)  # noqa: S301 - of our own process; models are trusted as far as that
    except Exception as exc:
        raise InvalidFrame(f"{type(exc).__name__} as it was read") from exc


def _readable(number: int, wait_ms: int) -> bool:
    poller = select.poll()
    poller.register(number, select.POLLIN)
    return bool(poller.poll(wait_ms))
