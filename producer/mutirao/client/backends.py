"""The ways to the system: Redis itself, or a gateway over HTTP, as a client's URL says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from mutirao.client.backend import Backend, Operation
from mutirao.client.redis_backend import RedisBackend
from mutirao.client.result_listener import ResultListener, Waiter
from mutirao.redisdb.drivers import AsyncRedisDriver, RedisDriver
from mutirao.settings import Settings

T = TypeVar("T")


class Driver(Protocol):
    """Runs a way's operations, blocking."""

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end."""

    def close(self) -> None:
        """Close every connection."""


class AsyncDriver(Protocol):
    """Runs a way's operations on the running event loop."""

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end."""

    async def close(self) -> None:
        """Close every connection."""


class Waiters(Protocol):
    """Tells those who wait how their jobs ended. Lives on one event loop."""

    @property
    def heard(self) -> object | None:
        """Stand for the time since which no end of this process's jobs can have been missed; None where ends are asked for."""

    def watch(self, wait: Waiter) -> None:
        """Begin to wait."""

    def leave(self, wait: Waiter) -> None:
        """Wait no longer."""

    async def close(self) -> None:
        """Wait for nothing any more; who still waits is told."""


class BackendFactory(NamedTuple):
    """What makes each part of a way."""

    operations: Callable[..., Backend]
    driver: Callable[[Settings], Driver]
    async_driver: Callable[[Settings], AsyncDriver]
    waits: Callable[[Any, Any], Waiters]


REDIS = BackendFactory(RedisBackend, RedisDriver, AsyncRedisDriver, ResultListener)


def backend_for(settings: Settings) -> BackendFactory:
    """Choose the way that the broker's URL names.

    Raises:
        SettingsError: it is a gateway's, and the package that speaks HTTP is not installed.
    """
    if not settings.remote:
        return REDIS
    from mutirao.client.http_backend import HTTP  # noqa: PLC0415 - httpx is an extra, and is loaded by those alone who use it

    return HTTP
