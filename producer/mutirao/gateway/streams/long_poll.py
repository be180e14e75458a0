"""A request that waits for its job: until the job ends, the time is up, or the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mutirao import errors
from mutirao.client.job import JobHandle
from mutirao.client.waiter import Completions, Waiter
from mutirao.gateway.requests.request import ClientGone, Request
from mutirao.gateway.state import Gateway
from mutirao.wire.messages import JobRecord

# Most jobs end sooner than this; only then is it worth a task to see whether the client is still there.
LOOK_S = 1.0


class LongPoll:
    """One wait; it leaves nothing behind however it ends."""

    __slots__ = ("_ended", "_left_s", "_looking", "_loop", "_request", "_timer", "patient")

    def __init__(self, request: Request, wait_s: float, *, patient: bool = False) -> None:
        """Take who waits, for how long at most, and whether that holds while the process stops."""
        self.patient = patient
        self._request = request
        self._left_s = wait_s
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[JobRecord | Exception | None] = self._loop.create_future()
        self._looking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def end(self, gateway: Gateway, job: JobHandle) -> JobRecord | None:
        """Wait.

        Returns:
            The job's finished record; None where the time was up first.

        Raises:
            JobNotFound: there is no such job.
            ClientGone: nobody waits any more.
            GatewayBusy: too many wait.
            Unauthorized, Forbidden: the caller's key is good no more.
        """
        found = await self._first(gateway, [job])
        if isinstance(found, Exception):
            raise found
        return found

    async def first(self, gateway: Gateway, jobs: Sequence[JobHandle]) -> None:
        """Wait until any of these jobs has ended, or there is no such job, or the time is up.

        Raises:
            ClientGone, GatewayBusy, Unauthorized, Forbidden: as `end`.
        """
        found = await self._first(gateway, jobs)
        if isinstance(found, Exception) and not isinstance(found, errors.JobNotFound):
            raise found

    async def _first(self, gateway: Gateway, jobs: Sequence[JobHandle]) -> JobRecord | Exception | None:
        with gateway.hold_open(self, self._request.caller):
            wait = Waiter(jobs, self._told)
            gateway.listener.add(wait)
            self._set_timer()
            try:
                return await self._ended
            finally:
                self._stop()
                gateway.listener.remove(wait)

    def give_up(self, why: Exception | None = None) -> None:
        """End the wait now, as if its time were up, or with this error."""
        self._finish(why)

    def _told(self, ended: Completions) -> None:
        self._finish(ended[0][1])

    def _finish(self, how: JobRecord | Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(how)

    def _set_timer(self) -> None:
        step = min(LOOK_S, self._left_s) if self._looking is None else self._left_s
        self._left_s -= step
        self._timer = self._loop.call_later(max(0.0, step), self._ring)

    def _ring(self) -> None:
        if self._left_s <= 0:
            self._finish(None)
            return
        self._looking = self._loop.create_task(self._look())
        self._set_timer()

    async def _look(self) -> None:
        await self._request.disconnected()
        self._finish(ClientGone())

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
