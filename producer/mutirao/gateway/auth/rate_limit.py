"""Limits of API keys: requests a second and jobs in flight, counted in Redis, so that all gateways count together."""

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
    """What a request was admitted with, so that it can be given back.

    Attributes:
        caller: whose it is.
        count: how many requests.
        ids: those of its jobs that are in flight since this request, not before.
    """

    caller: Caller
    count: int
    ids: tuple[str, ...]


class _Admission(msgspec.Struct, frozen=True):
    """A request that waits to be admitted."""

    count: int
    ids: Sequence[str]
    expires_s: float
    reply: asyncio.Future[Any]

    def resolve(self, reply: Any) -> None:
        """Pass Redis's reply to the waiting task, or raise the error there, unless that was cancelled."""
        if not self.reply.done():
            (self.reply.set_exception if isinstance(reply, Exception) else self.reply.set_result)(reply)


class RateLimiter:
    """Admits what keys with limits submit; a key without limits costs nothing here.

    Requests of a key that arrive while a script call is under way share the next one; each is admitted or refused by itself.
    """

    def __init__(self, settings: Settings, redis: AsyncRedisDriver) -> None:
        """Take the settings and the connections of the gateway."""
        self._settings, self._redis = settings, redis
        self._side: Database = "results" if settings.separate_results else "broker"
        self._waiting: dict[str, list[_Admission]] = {}
        self._ended: dict[str, list[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def charge(self, caller: Caller) -> None:
        """Count one request against its key's rate, however it ends.

        Raises:
            TooManyRequests: the limit is reached.
            BrokerUnavailable: Redis does not answer.
        """
        if caller.limits is not None and caller.limits.rate_per_s is not None:
            await self._admit(caller, caller.limits, _admission(1, (), 0.0))

    async def admit(
        self, caller: Caller, ids: Sequence[str], expires_s: float | None = None, *, charged: int = 0
    ) -> Permit | None:
        """Count requests against the limits of the caller: all of them, or none.

        Args:
            caller: who submits.
            ids: of the jobs; one that is in flight already is not counted twice.
            expires_s: their deadline; that of the settings by default.
            charged: how many of them were counted against the rate before.

        Returns:
            What to give back if they are not submitted after all; None where the caller has no limits.

        Raises:
            TooManyRequests: a limit is reached.
            BrokerUnavailable: Redis does not answer.
        """
        limits = caller.limits
        if limits is None or not ids:
            return None
        _check_fits(caller, limits, len(ids))
        kept = () if limits.in_flight is None else ids
        count = len(ids) - charged
        admission = _admission(count, kept, self._settings.expires_s if expires_s is None else expires_s)
        known = await self._admit(caller, limits, admission)
        return Permit(caller, count, tuple(id for at, id in enumerate(kept) if at not in known))

    @contextlib.asynccontextmanager
    async def admitted(
        self, caller: Caller, ids: Sequence[str], expires_s: float | None = None, *, charged: int = 0
    ) -> AsyncIterator[None]:
        """Admit what is submitted inside, and give it back if it is refused. A request that is itself invalid stays counted against
        the rate, since it costs to find that out.

        Where Redis did not answer, or the client went away, the gateway cannot know whether the job was submitted, so it stays
        counted: a job that does not exist is uncounted within about a minute.

        Raises:
            TooManyRequests: a limit is reached.
        """
        permit = await self.admit(caller, ids, expires_s, charged=charged)
        try:
            yield
        except errors.BrokerUnavailable:
            raise
        except errors.MutiraoError as exc:
            if permit is not None:
                invalid = isinstance(exc, errors.InvalidRequest)
                await self.give_back(msgspec.structs.replace(permit, count=0) if invalid else permit)
            raise

    async def give_back(self, permit: Permit) -> None:
        """Uncount what was not submitted; while Redis is away it stays counted for a while."""
        limits = permit.caller.limits or KeyLimits()
        args = (str(permit.count), str(len(permit.ids)), *permit.ids)
        with contextlib.suppress(errors.BrokerUnavailable):
            await self._redis.run(self._script_call("return", permit.caller.key_id, limits, 0.0, args))

    def ended(self, caller: Caller, ids: Sequence[str]) -> None:
        """Uncount jobs that have ended, in the background, so that the script need not read their records."""
        if caller.limits is None or caller.limits.in_flight is None:
            return
        if caller.key_id in self._ended:
            self._ended[caller.key_id].extend(ids)
            return
        self._ended[caller.key_id] = list(ids)
        self._start(self._drop(caller.key_id))

    async def close(self) -> None:
        """Stop, and cancel what waits to be admitted."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for waiting in self._waiting.values():  # of tasks that had not begun
            for admission in waiting:
                admission.reply.cancel()

    async def _admit(self, caller: Caller, limits: KeyLimits, admission: _Admission) -> set[int]:
        """Wait for the script's reply; return the places of the ids that were in flight before."""
        self._enqueue(caller, limits, admission)
        said = await admission.reply
        if said[0] != b"admitted":
            raise _refused(caller, limits, said)
        return {place - 1 for place in said[1:]}

    def _enqueue(self, caller: Caller, limits: KeyLimits, admission: _Admission) -> None:
        if caller.key_id in self._waiting:
            self._waiting[caller.key_id].append(admission)
            return
        self._waiting[caller.key_id] = [admission]
        self._start(self._admit_waiting(caller.key_id, limits))

    async def _admit_waiting(self, key: str, limits: KeyLimits) -> None:
        """Admit what waits for a key, and what arrives meanwhile, until nothing waits."""
        together: Sequence[_Admission] = ()
        try:
            while waiting := self._waiting[key]:
                together, self._waiting[key] = _split(waiting)
                await self._admit_together(key, limits, together)
        finally:
            for left in (*together, *self._waiting.pop(key)):
                left.reply.cancel()

    async def _admit_together(self, key: str, limits: KeyLimits, together: Sequence[_Admission]) -> None:
        args = [arg for one in together for arg in (one.count, len(one.ids), *one.ids)]
        expires_s = max(one.expires_s for one in together)
        try:
            replies = await self._redis.run(self._script_call("admit", key, limits, expires_s, args))
        except Exception as exc:  # noqa: BLE001 - it is raised where each waits
            replies = [exc] * len(together)
        for admission, reply in zip(together, replies, strict=True):
            admission.resolve(reply)

    async def _drop(self, key: str) -> None:
        """Uncount jobs that have ended: those of this turn of the loop, then those that end meanwhile."""
        try:
            while ids := self._ended[key]:
                self._ended[key] = []
                _, jobs, _ = keyspace.limit_keys(key)
                with contextlib.suppress(errors.BrokerUnavailable):  # the script finds out from their records
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


def _admission(count: int, ids: Sequence[str], expires_s: float) -> _Admission:
    return _Admission(count, ids, expires_s, asyncio.get_running_loop().create_future())


def _one(command: Command) -> Operation[Any]:
    return (yield command)


def _split(waiting: Sequence[_Admission]) -> tuple[list[_Admission], list[_Admission]]:
    """Split what one script call admits from what waits for the next; the first admission goes, however large it is."""
    ids = 0
    for at, admission in enumerate(waiting):
        ids += len(admission.ids)
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
