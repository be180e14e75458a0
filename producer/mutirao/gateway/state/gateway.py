"""The state of one gateway process, which all handlers share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from mutirao import errors, keyspace, queue_stats
from mutirao.client.redis_backend import RedisBackend
from mutirao.client.result_listener import ResultListener
from mutirao.gateway.auth.authenticator import READ_S, Authenticator, Caller
from mutirao.gateway.auth.rate_limit import RateLimiter
from mutirao.gateway.state.coalescer import RecentSubmissions, SubmitCoalescer
from mutirao.gateway.state.fleet import FleetSnapshot
from mutirao.gateway.state.fleet_broadcaster import FleetBroadcaster
from mutirao.gateway.state.metrics import Metrics
from mutirao.gateway.state.process_pool import ProcessPool
from mutirao.gateway.state.queue_stats_cache import QueueStatsCache
from mutirao.gateway.state.record_poller import RecordPoller
from mutirao.redisdb.drivers import AsyncRedisDriver
from mutirao.redisdb.refreshed_value import Refreshed
from mutirao.registry import ModelInfo, Registry
from mutirao.settings import Settings
from mutirao.wire.messages import JobRecord

# How often the registry is read in the background; a request that only looks up a model never reads it.
REFRESH_S = 0.75
# The greatest age of the registry in a response about readiness.
READY_AGE_S = 1.0


class OpenWait(Protocol):
    """A wait or a stream that is open."""

    def give_up(self, why: Exception | None = None) -> None:
        """End it now: as if its time were up, or with this error, and then without sending anything more of the job."""


class Gateway:
    """One gateway process.

    Attributes:
        settings: the settings.
        backend: operations on Redis.
        redis: runs them.
        listener: receives the results of jobs.
        coalescer: queues requests.
        metrics: what is counted.
        authenticator: checks API keys.
        rate_limiter: counts requests against the limits of keys.
        recent: the jobs of batches that this process has queued.
        open_waits: the waits and streams that are open, and the caller of each.
        record_poller: reads the records of jobs for streams.
        process_pool: processes that parse large bodies.
        queue_stats: what waits for each model.
        fleet_broadcaster: snapshots of the fleet, for the console.
        stopping: whether the process was told to end.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing connects before `running`."""
        self.settings = settings
        self.backend = RedisBackend(settings, check=False)
        self.redis = AsyncRedisDriver(settings)
        self.listener = ResultListener(self.backend, self.redis)
        self.metrics = Metrics()
        self.coalescer = SubmitCoalescer(self.backend, self.redis, self.listener, self.metrics)
        self.authenticator = Authenticator(settings, self.redis)
        self.authenticator.changed = self._recheck
        self.rate_limiter = RateLimiter(settings, self.redis)
        self.recent = RecentSubmissions()
        self.open_waits: dict[OpenWait, Caller] = {}
        self.record_poller = RecordPoller(self.backend, self.redis)
        self.process_pool = ProcessPool()
        self.queue_stats = QueueStatsCache(self.backend, self.redis)
        self.fleet_broadcaster = FleetBroadcaster(self.fleet)
        self.stopping = False
        self._registry = Refreshed(lambda: self.redis.run(self.backend.catalog()))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Refresh the registry and, while waits are open, the keys in the background; close everything at the end."""
        tasks = [asyncio.create_task(work) for work in (self._refresh(), self._watch_keys())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.rate_limiter.close()
            await self.authenticator.close()
            await self.listener.close()
            await self.redis.close()
            self.process_pool.close()

    def model(self, name: str, version: str = "") -> ModelInfo:
        """Return a model from the latest copy of the registry.

        Args:
            name: the model.
            version: the version that the caller wants; "" for the active one.

        Raises:
            ModelNotFound, ModelUnavailable: as `Registry.find`.
            VersionNotFound: the model is served, but not in this version.
            BrokerUnavailable: the registry could not be read yet.
        """
        if self._registry.value is None:
            raise errors.BrokerUnavailable("the models could not be read from Redis yet: try again")
        info = self._registry.value.find(name)
        if version and version != info.version:
            text = f"model {name!r} is not served in version {version!r}: its active version is {info.version}"
            raise errors.VersionNotFound(text, model=name, version=version, known=(info.version,))
        return info

    async def find(self, name: str, version: str = "") -> ModelInfo:
        """Find a model in the copy of the registry, or in a new copy: it may have been announced since."""
        try:
            return self.model(name, version)
        except errors.MutiraoError:
            keyspace.model_name(name)
            await self.registry(0)
        return self.model(name, version)

    async def registry(self, age_s: float = READY_AGE_S) -> Registry:
        """Return the registry, read again where the copy is older than this."""
        return await self._registry.get(age_s)

    async def fleet(self) -> FleetSnapshot:
        """Read the fleet now.

        Raises:
            BrokerUnavailable: Redis does not answer.
        """
        registry = await self.registry()
        return FleetSnapshot(self.backend.now(), registry, await self.queue_stats.of(tuple(registry.models)))

    async def record(self, id: str, tenant: str) -> JobRecord:
        """Read a tenant's job record by its qualified id.

        Raises:
            JobNotFound: there is no such job, or it is another tenant's.
        """
        record = await self.redis.run(self.backend.record(id))
        if record.job.owner != tenant:
            raise self.backend.not_found_error(id)
        if record.done:
            self.recent.forget([id])
        return record

    async def check_deadline(self, model: str, tenant: str, priority: str, expires_s: float) -> None:
        """Estimate by the live workers' speed whether a request would be served before its deadline.

        Raises:
            TooLate: it would not.
        """
        registry = await self.registry(REFRESH_S + READY_AGE_S)
        depths = await self.queue_stats.of(tuple(registry.models))
        wait_s = queue_stats.wait_s(depths.get(model, ()), tenant, priority, registry.speed(model))
        if wait_s is not None and wait_s > expires_s:
            text = f"this request would wait about {wait_s:.3g} s for model {model!r}, and it expires in {expires_s:g} s: try again later"
            raise errors.TooLate(text, model=model, wait_s=round(wait_s, 3), retry_after_s=wait_s - expires_s)

    @contextlib.contextmanager
    def hold_open(self, one: OpenWait, caller: Caller) -> Iterator[None]:
        """Count a wait or a stream as open, and end it once its caller's key is no longer valid.

        Raises:
            Unauthorized, Forbidden: the key is no longer valid.
            GatewayBusy: as many waits as the settings allow are open.
        """
        self.authenticator.recheck(caller)
        limit = self.settings.gateway_waits
        if len(self.open_waits) >= limit:
            text = f"this gateway has {limit} open waits, which is its limit: try again, or poll without ?wait="
            raise errors.GatewayBusy(text, retry_after_s=1)
        self.open_waits[one] = caller
        try:
            yield
        finally:
            self.open_waits.pop(one, None)

    def stop(self) -> None:
        """Report not ready, and end the waits that lose nothing by it: a client polls again, a stream resumes at another gateway."""
        self.stopping = True
        for one in tuple(self.open_waits):
            if not getattr(one, "outlasts_stop", False):
                one.give_up()

    def give_up(self) -> None:
        """End every wait and every stream: the jobs go on, and any other gateway answers for them."""
        for one in tuple(self.open_waits):
            one.give_up()

    def _recheck(self) -> None:
        """End the open waits of callers that would no longer be admitted."""
        for one, caller in tuple(self.open_waits.items()):
            try:
                self.authenticator.recheck(caller)
            except errors.MutiraoError as exc:
                one.give_up(exc)

    async def _watch_keys(self) -> None:
        while True:
            await asyncio.sleep(READ_S)
            if self.open_waits:
                with contextlib.suppress(errors.MutiraoError):  # Redis is away: no result arrives either
                    await self.authenticator.refresh()

    async def _refresh(self) -> None:
        while True:
            with contextlib.suppress(errors.MutiraoError):  # Redis is away: a request that needs the registry raises it
                await self.registry(0)
            await asyncio.sleep(REFRESH_S)
