"""Waiting for jobs, whatever the backend: who waits for which jobs, and how the ends of waits are reported."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from mutirao.client.job import JobHandle
from mutirao.errors import MutiraoError
from mutirao.wire.messages import JobRecord

Completions = list[tuple[str, JobRecord | Exception]]

# Pauses between attempts to reach Redis or the gateway again; the last one repeats.
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class Waiter:
    """Jobs that somebody waits for together, told of in groups of (id, finished record or error).

    Attributes:
        left: how many have not been told of.
    """

    def __init__(self, jobs: Iterable[JobHandle], deliver: Callable[[Completions], object]) -> None:
        """Take the jobs, and what to call on the event loop of the replies."""
        self.jobs = tuple(jobs)
        self.left = len(self.jobs)
        self._deliver = deliver

    def deliver(self, ended: Completions) -> None:
        """Hand over how some of them ended."""
        self.left -= len(ended)
        self._deliver(ended)


class JobWaiters(ABC):
    """Delivers the ends of jobs to those who wait. Lives on one event loop.

    Attributes:
        epoch: an object that is replaced when ends of this process's jobs may have been missed; None where ends are polled for.
    """

    epoch: object | None = None

    def __init__(self) -> None:
        self._waiters: dict[str, tuple[Waiter, ...]] = {}
        self._closed = False

    def add(self, waiter: Waiter) -> None:
        """Begin to wait."""
        if self._closed:
            waiter.deliver([(job.id, closed_error()) for job in waiter.jobs])
            return
        try:
            self._add(waiter)
        except Exception as exc:  # a bug here must not leave anybody waiting for ever
            waiter.deliver([(job.id, exc) for job in waiter.jobs])
            raise

    def remove(self, waiter: Waiter) -> None:
        """Wait no longer."""
        for job in waiter.jobs:
            waiters = self._waiters.get(job.id, ())
            left = tuple(other for other in waiters if other is not waiter)
            if left:
                self._waiters[job.id] = left
            elif waiters:
                self._forget(job.id)

    @abstractmethod
    async def close(self) -> None:
        """Stop waiting; everybody who still waits gets an error."""

    @abstractmethod
    def _add(self, waiter: Waiter) -> None:
        """Begin to wait, as `add` does."""

    @abstractmethod
    def _forget(self, id: str) -> None:
        """Drop all that is kept of a job for which nobody waits any more."""

    def _deliver(self, ended: Completions) -> None:
        """Deliver how jobs ended, to each who waits for some of them in one group."""
        groups: dict[Waiter, Completions] = {}
        for id, outcome in ended:
            for waiter in self._waiters.get(id, ()):
                groups.setdefault(waiter, []).append((id, outcome))
            self._forget(id)
        for waiter, group in groups.items():
            waiter.deliver(group)


def closed_error() -> MutiraoError:
    """Build the error for who waits through a client that is closed."""
    return MutiraoError("the client was closed while the job was waited for; the job goes on")


async def cancel_all(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended: redis-py loses a cancellation that comes while it connects."""
    while running := {task for task in tasks if not task.done()}:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)
