"""Single flight: a call that many callers make at the same time is made once, and all get its result."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, NamedTuple


class PerProcessLock:
    """A lock of the threads of a process. A fork has its own: the thread that held this one does not exist there."""

    def __init__(self) -> None:
        """Create the lock, free."""
        self._locks: dict[int, threading.Lock] = {}

    def __enter__(self) -> None:
        """Acquire the lock."""
        self._locks.setdefault(os.getpid(), threading.Lock()).acquire()

    def __exit__(self, *_exc: object) -> None:
        """Release the lock."""
        self._locks[os.getpid()].release()


class SharedCall(NamedTuple):
    """A part of an operation that concurrent callers run once and share.

    Attributes:
        name: the key: callers with the same name share one run.
        start: starts the operation.
    """

    name: str
    start: Callable[[], Generator[Any, Any, Any]]


class SingleFlight:
    """The shared calls of threads; a fork has its own."""

    def __init__(self) -> None:
        """Create it with no call under way."""
        self._open: dict[tuple[int, str], Future[Any]] = {}

    def join(self, name: str, do: Callable[[], Any]) -> Any:
        """Run `do`, or wait for a thread that already runs it; return its result, or raise its error."""
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
    """The shared calls of an event loop's tasks; a task that is cancelled does not end the call for others."""

    def __init__(self) -> None:
        """Create it with no call under way."""
        self._open: dict[str, asyncio.Task[Any]] = {}

    async def join(self, name: str, do: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run `do`, or wait for a task that already runs it; return its result, or raise its error."""
        task = self._open.get(name)
        if task is None or task.done():
            task = self._open[name] = asyncio.create_task(do())
            task.add_done_callback(retrieve_exception)
        return await asyncio.shield(task)


def retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve the exception of a task for which perhaps no caller waits any more."""
    if not task.cancelled():
        task.exception()
