"""Waiting for jobs, whatever the backend: who waits for which jobs, and how the ends of waits are reported."""

from __future__ import annotations

import asyncio
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
