"""What many ask for at the same time is asked for once, and all are told."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, NamedTuple


class Lock:
    """A lock of the threads of a process. A fork has its own: whoever held this one at that moment did not follow."""

    def __init__(self) -> None:
        """Begin with nobody holding it."""
        self._locks: dict[int, threading.Lock] = {}

    def __enter__(self) -> None:
        """Wait for it."""
        self._locks.setdefault(os.getpid(), threading.Lock()).acquire()

    def __exit__(self, *_exc: object) -> None:
        """Leave it to others."""
        self._locks[os.getpid()].release()


class SharedCall(NamedTuple):
    """A step of an operation that is taken once for all who come to it while it is under way.

    Attributes:
        name: of what is asked for: who names the same shares it.
        start: begins the operation that asks.
    """

    name: str
    start: Callable[[], Generator[Any, Any, Any]]


class SingleFlight:
    """What threads share; a fork has its own."""

    def __init__(self) -> None:
        """Begin with none."""
        self._open: dict[tuple[int, str], Future[Any]] = {}

    def join(self, name: str, do: Callable[[], Any]) -> Any:
        """Return what `do` returns, or raise what it raises: done here, or by a thread that does it already."""
        key, own = (os.getpid(), name), Future[Any]()
        flight = self._open.setdefault(key, own)
        if flight is not own:
            return flight.result()
        try:
            result = do()
        except BaseException as exc:
            self._open.pop(key)
            own.set_exception(exc)
            raise
        self._open.pop(key)
        own.set_result(result)
        return result


class AsyncSingleFlight:
    """What the tasks of an event loop share; who gives up its wait ends nobody else's."""

    def __init__(self) -> None:
        """Begin with none."""
        self._open: dict[str, asyncio.Task[Any]] = {}

    async def join(self, name: str, do: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Return what `do` returns, or raise what it raises."""
        task = self._open.get(name)
        if task is None or task.done():
            task = self._open[name] = asyncio.create_task(do())
            task.add_done_callback(_retrieve_exception)
        return await asyncio.shield(task)


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Take note of a failure that perhaps nobody waits for."""
    if not task.cancelled():
        task.exception()
