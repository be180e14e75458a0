"""The parts of an asyncio client on each event loop: operations, connections and waits, which end with the loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os

from mutirao.client.backend import AsyncDriver, Backend, BackendFactory
from mutirao.client.waiter import JobWaiters
from mutirao.settings import Settings
from mutirao.single_flight import PerProcessLock

# Of the processes that this one was forked from: closing them here would close them there.
_OF_PARENTS: list[LoopClient] = []


class LoopClient:
    """The parts of a client on one event loop.

    Attributes:
        backend: the operations; each loop has a reply channel of its own.
        driver: runs them.
        waiters: deliver the ends of jobs.
    """

    def __init__(self, factory: BackendFactory, settings: Settings, *, check: bool) -> None:
        """Belong to the running event loop: when its tasks are cancelled at its end, the connections are closed."""
        self.backend: Backend = factory.backend(settings, check=check)
        self.driver: AsyncDriver = factory.async_driver(settings)
        self.waiters: JobWaiters = factory.waiters(self.backend, self.driver)
        self.process = os.getpid()
        self._over = asyncio.Event()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="mutirao-connections")

    @property
    def usable(self) -> bool:
        """Whether nothing has ended it."""
        return self.process == os.getpid() and not self._keeper.done()

    async def close(self) -> None:
        """End it, on its own loop."""
        self._over.set()
        if not self._keeper.done():
            await asyncio.wait([self._keeper])

    async def _keep(self) -> None:
        try:
            await self._over.wait()
        finally:
            await self.waiters.close()
            await self.driver.close()


class LoopClients:
    """The parts of one client, by event loop. Threads with a loop each may use it at the same time."""

    def __init__(self, factory: BackendFactory, settings: Settings, *, check: bool) -> None:
        """Connect nothing yet.

        Raises:
            SettingsError: a package that the broker needs is not installed.
        """
        factory.async_driver(settings)  # which fails where a package is missing
        self._make = functools.partial(LoopClient, factory, settings, check=check)
        self._timeout_s = settings.timeout_s
        self._parts: dict[asyncio.AbstractEventLoop, LoopClient] = {}
        self._lock = PerProcessLock()

    def here(self) -> LoopClient:
        """Find the running loop's part; made anew where it was closed."""
        part = self._parts.get(asyncio.get_running_loop())
        return part if part is not None and part.usable else self._begun()

    async def close(self) -> None:
        """Close all of them, each on its own loop; what calls later connects anew."""
        with self._lock:
            parts, self._parts = self._parts, {}
        here = asyncio.get_running_loop()
        for loop, part in parts.items():
            if part.process != os.getpid():
                _OF_PARENTS.append(part)
            elif loop is here:
                await part.close()
            elif loop.is_running():
                closing = asyncio.run_coroutine_threadsafe(part.close(), loop)
                with contextlib.suppress(TimeoutError):  # the loop may be ending too, and close it by itself
                    await asyncio.wait_for(asyncio.wrap_future(closing), self._timeout_s)

    def _begun(self) -> LoopClient:
        with self._lock:
            left = {loop: part for loop, part in self._parts.items() if part.process != os.getpid()}
            _OF_PARENTS.extend(left.values())
            self._parts = {
                loop: part for loop, part in self._parts.items() if loop not in left and not loop.is_closed()
            }
            part = self._parts[asyncio.get_running_loop()] = self._make()
            return part
