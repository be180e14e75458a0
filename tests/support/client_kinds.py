"""One suite for every client: an AsyncClient behind the verbs of Client, on an event loop of its own as in a real program; and
either of them through a gateway in front of the Redis that a test names.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple, Self

import redis

from mutirao import AsyncClient, AsyncJob, Client, keyspace
from mutirao.client.job import Timings
from support.event_loop_thread import EventLoopThread
from support.gateway_process import GatewayProcess


class BlockingClient:
    """Takes what AsyncClient takes."""

    def __init__(self, *args: Any, **given: Any) -> None:
        self._loop = EventLoopThread()
        self.run = self._loop.run
        self._client = AsyncClient(*args, **given)

    def submit(self, *args: Any, **asked: Any) -> BlockingJob:
        return BlockingJob(self, self.run(self._client.submit(*args, **asked)))

    def submit_many(self, *args: Any, **asked: Any) -> list[BlockingJob]:
        return [BlockingJob(self, job) for job in self.run(self._client.submit_many(*args, **asked))]

    def predict(self, *args: Any, **asked: Any) -> Any:
        return self.run(self._client.predict(*args, **asked))

    def job(self, id: str) -> BlockingJob:
        return BlockingJob(self, self._client.job(id))

    def as_completed(self, jobs: Iterable[BlockingJob], timeout: float | None = None) -> Iterator[BlockingJob]:
        found = self._client.as_completed([job.job for job in jobs], timeout)
        while job := self.run(_next(found)):
            yield BlockingJob(self, job)

    def models(self) -> Any:
        return self.run(self._client.models())

    def catalog(self) -> Any:
        return self.run(self._client.catalog())

    def close(self) -> None:
        self.run(self._client.close())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BlockingJob:
    """An AsyncJob behind the verbs of Job."""

    def __init__(self, client: BlockingClient, job: AsyncJob) -> None:
        self._client = client
        self.job = job
        self.id = job.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockingJob) and self.job == other.job

    def __hash__(self) -> int:
        return hash(self.job)

    @property
    def status(self) -> str:
        return self._client.run(self.job.status())

    @property
    def timings(self) -> Timings:
        return self._client.run(self.job.timings())

    def record(self) -> Any:
        return self._client.run(self.job.record())

    def done(self) -> bool:
        return self._client.run(self.job.done())

    def result(self, timeout: float | None = None) -> Any:
        return self._client.run(self.job.result(timeout))

    def cancel(self) -> bool:
        return self._client.run(self.job.cancel())


async def _next(found: AsyncIterator[AsyncJob]) -> AsyncJob | None:
    return await anext(found, None)


class Gateways:
    """Gateways for the tests of a module: one for each Redis and settings that they name, started when it is first asked for."""

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()
        self._urls: dict[tuple[object, ...], str] = {}

    def url(self, redis_url: str, **settings: Any) -> str:
        key = (redis_url, _server(redis_url), *sorted(settings.items()))
        if key not in self._urls:
            self._urls[key] = self._running.enter_context(GatewayProcess(redis_url, **settings)).url
        return self._urls[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.close()


def _server(redis_url: str) -> int | None:
    """Which process listens there: the port may have been another test's; None where nobody answers."""
    try:
        with redis.Redis.from_url(redis_url, socket_timeout=2) as client:
            return int(client.info("server")["process_id"])
    except (redis.RedisError, ValueError):  # or it is no Redis's address
        return None


class Kind(NamedTuple):
    """A client, and how it reaches the Redis that a test names; call it as the client's class."""

    client: Any
    gateways: Gateways | None = None

    def __call__(self, url: str, **given: Any) -> Any:
        if self.gateways is None:
            return self.client(url, **given)
        own = {name: given.pop(name) for name in OF_GATEWAYS & given.keys()}
        return self.client(self.gateways.url(url, **own), **given)


# What a gateway goes by, whatever its clients are told.
OF_GATEWAYS = {"queue_limit", "result_ttl_s", "result_url"}
KINDS = {"Client": Client, "AsyncClient": BlockingClient}


def subscribed(server: Any) -> int:
    """How many clients of a Redis wait for results."""
    return len(server.client().pubsub_channels(keyspace.reply_channel("*")))
