"""How much a key may ask for: requests a second and jobs in flight, counted in Redis, so that all gateways count alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import msgspec

from mutirao import errors, keyspace
from mutirao.api_keys import KeyLimits
from mutirao.gateway.auth.authenticator import Caller
from mutirao.redisdb.drivers import AsyncRedisDriver, Command, Database, Operation
from mutirao.settings import Settings

# Ids in one script call: Redis runs nothing else meanwhile.
TOGETHER_MAX = 10_000


class Permit(msgspec.Struct, frozen=True):
    """What a call was admitted with, so that it can be given back.

    Attributes:
        caller: whose it is.
        count: how many requests.
        ids: those of its jobs that are in flight since this call, not before.
    """

    caller: Caller
    count: int
    ids: tuple[str, ...]


class _Asked(msgspec.Struct, frozen=True):
    """A call that waits to be admitted."""

    count: int
    ids: Sequence[str]
    expires_s: float
    reply: asyncio.Future[Any]

    def hears(self, reply: Any) -> None:
        """Tell the requester, unless it is gone."""
        if not self.reply.done():
            self.reply.set_result(reply)

    def fails(self, exc: Exception) -> None:
        """Tell the requester that nobody knows, unless it is gone."""
        if not self.reply.done():
            self.reply.set_exception(exc)


class RateLimiter:
    """Admits what keys with limits submit; others cost nothing here.

    Calls of a key that arrive while one is asked for are asked for together, in one round trip; each has its own fate.
    """

    def __init__(self, settings: Settings, redis: AsyncRedisDriver) -> None:
        """Take the settings and the connections of the gateway."""
        self._settings, self._redis = settings, redis
        self._side: Database = "results" if settings.separate_results else "broker"
        self._waiting: dict[str, list[_Asked]] = {}
        self._ended: dict[str, list[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def charge(self, caller: Caller) -> None:
        """Count one request against the rate of whoever sends it, whatever becomes of it.

        Raises:
            TooManyRequests: the limit is reached.
            BrokerUnavailable: Redis does not say.
        """
        if caller.limits is not None and caller.limits.rate_per_s is not None:
            await self._admit(caller, caller.limits, _asked(1, (), 0.0))

    async def admit(
        self, caller: Caller, ids: Sequence[str], expires_s: float | None = None, *, charged: int = 0
    ) -> Permit | None:
        """Count requests against the limits of whoever submits them: all of them, or none.

        Args:
            caller: who submits.
            ids: of the jobs; one that is in flight already is not counted twice.
            expires_s: their deadline; that of the settings by default.
            charged: how many of them were counted against the rate before.

        Returns:
            What to give back if they are not submitted after all; None where the caller has no limits.

        Raises:
            TooManyRequests: a limit is reached.
            BrokerUnavailable: Redis does not say.
        """
        limits = caller.limits
        if limits is None or not ids:
            return None
        _check_fits(caller, limits, len(ids))
        kept = () if limits.in_flight is None else ids
        count = len(ids) - charged
        asked = _asked(count, kept, self._settings.expires_s if expires_s is None else expires_s)
        known = await self._admit(caller, limits, asked)
        return Permit(caller, count, tuple(id for at, id in enumerate(kept) if at not in known))

    @contextlib.asynccontextmanager
    async def admitted(
        self, caller: Caller, ids: Sequence[str], expires_s: float | None = None, *, charged: int = 0
    ) -> AsyncIterator[None]:
        """Admit what is submitted inside; given back if that is refused. What is wrong with the request itself is found out by
        reading it, which costs: it stays counted against the rate.

        Where Redis did not answer, or the requester went away, nobody knows whether it was submitted, so it stays counted: a job
        that never was is forgotten within a minute or so.

        Raises:
            TooManyRequests: a limit is reached.
        """
        admitted = await self.admit(caller, ids, expires_s, charged=charged)
        try:
            yield
        except errors.BrokerUnavailable:
            raise
        except errors.MutiraoError as exc:
            if admitted is not None:
                read = isinstance(exc, errors.InvalidRequest)
                await self.give_back(msgspec.structs.replace(admitted, count=0) if read else admitted)
            raise

    async def give_back(self, admitted: Permit) -> None:
        """Uncount what was not submitted; where Redis is away it stays counted for a while."""
        limits = admitted.caller.limits or KeyLimits()
        args = (str(admitted.count), str(len(admitted.ids)), *admitted.ids)
        with contextlib.suppress(errors.BrokerUnavailable):
            await self._redis.run(self._script_call("return", admitted.caller.key_id, limits, 0.0, args))

    def ended(self, caller: Caller, ids: Sequence[str]) -> None:
        """Take note that jobs have ended, so that Redis need not look at their records; nobody waits for it."""
        if caller.limits is None or caller.limits.in_flight is None:
            return
        if caller.key_id in self._ended:
            self._ended[caller.key_id].extend(ids)
            return
        self._ended[caller.key_id] = list(ids)
        self._start(self._drop(caller.key_id))

    async def close(self) -> None:
        """Stop, and end what waits to be admitted."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for waiting in self._waiting.values():  # of tasks that had not begun
            for asked in waiting:
                asked.reply.cancel()

    async def _admit(self, caller: Caller, limits: KeyLimits, asked: _Asked) -> set[int]:
        """Wait for Redis's word; return the places of the ids that were in flight before."""
        self._ask(caller, limits, asked)
        said = await asked.reply
        if said[0] != b"admitted":
            raise _refused(caller, limits, said)
        return {place - 1 for place in said[1:]}

    def _ask(self, caller: Caller, limits: KeyLimits, asked: _Asked) -> None:
        if caller.key_id in self._waiting:
            self._waiting[caller.key_id].append(asked)
            return
        self._waiting[caller.key_id] = [asked]
        self._start(self._ask_all(caller.key_id, limits))

    async def _ask_all(self, key: str, limits: KeyLimits) -> None:
        """Ask for all that waits, and for what has come meanwhile, until nothing has."""
        together: Sequence[_Asked] = ()
        try:
            while waiting := self._waiting[key]:
                together, self._waiting[key] = _parted(waiting)
                await self._ask_for(key, limits, together)
        finally:
            for left in (*together, *self._waiting.pop(key)):
                left.reply.cancel()

    async def _ask_for(self, key: str, limits: KeyLimits, together: Sequence[_Asked]) -> None:
        args = [arg for asked in together for arg in (asked.count, len(asked.ids), *asked.ids)]
        expires_s = max(asked.expires_s for asked in together)
        try:
            replies = await self._redis.run(self._script_call("admit", key, limits, expires_s, args))
        except Exception as exc:  # noqa: BLE001 - it is raised where each waits
            for asked in together:
                asked.fails(exc)
            return
        for asked, reply in zip(together, replies, strict=True):
            asked.hears(reply)

    async def _drop(self, key: str) -> None:
        """Forget jobs that have ended: all that this turn of the loop has heard of, then those heard of meanwhile."""
        try:
            while ids := self._ended[key]:
                self._ended[key] = []
                _, jobs, _ = keyspace.limit_keys(key)
                with contextlib.suppress(errors.BrokerUnavailable):  # the script finds out by itself
                    await self._redis.run(_one(Command(self._side, "ZREM", (jobs,), tuple(ids))))
        finally:
            self._ended.pop(key)

    def _script_call(
        self, mode: str, key: str, limits: KeyLimits, expires_s: float, args: Sequence[Any]
    ) -> Operation[Any]:
        kept_s = self._settings.result_ttl_s + expires_s
        counts = (limits.rate_per_s or 0, limits.burst, limits.in_flight or 0, kept_s, keyspace.record_key(""))
        return _one(Command(self._side, "rate_limit", keyspace.limit_keys(key), (mode, *counts, *args)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _asked(count: int, ids: Sequence[str], expires_s: float) -> _Asked:
    return _Asked(count, ids, expires_s, asyncio.get_running_loop().create_future())


def _one(command: Command) -> Operation[Any]:
    return (yield command)


def _parted(waiting: Sequence[_Asked]) -> tuple[list[_Asked], list[_Asked]]:
    """Part what one script call asks for from what waits for the next; the first goes, however large."""
    ids = 0
    for at, asked in enumerate(waiting):
        ids += len(asked.ids)
        if at and ids > TOGETHER_MAX:
            return list(waiting[:at]), list(waiting[at:])
    return list(waiting), []


def _check_fits(caller: Caller, limits: KeyLimits, count: int) -> None:
    if limits.rate_per_s is not None and count > limits.burst:
        says = f"{_rate(limits)}: {count:,} in one call can never fit, split it"
        raise errors.TooManyRequests(f"API key {caller.key_id!r} may submit {says}", key=caller.key_id, limit="rate")
    if limits.in_flight is not None and count > limits.in_flight:
        says = f"have {limits.in_flight:,} jobs in flight: {count:,} in one call can never fit, split it"
        raise errors.TooManyRequests(f"API key {caller.key_id!r} may {says}", key=caller.key_id, limit="in flight")


def _refused(caller: Caller, limits: KeyLimits, said: Sequence[Any]) -> errors.TooManyRequests:
    key, after_s = caller.key_id, float(said[-1])
    if said[0] == b"rate":
        text = f"API key {key!r} may submit {_rate(limits)}: try again in {after_s:.3g} s"
        return errors.TooManyRequests(text, key=key, limit="rate", retry_after_s=after_s)
    text = f"API key {key!r} may have {limits.in_flight:,} jobs in flight, and {said[1]:,} are: wait for some to end, or cancel them"
    return errors.TooManyRequests(text, key=key, limit="in flight", retry_after_s=after_s)


def _rate(limits: KeyLimits) -> str:
    return f"{limits.rate_per_s or 0:g} requests a second, {limits.burst:,} at once"
