"""Opening a client of the Redis that a URL names: a server, a server behind TLS, or the master that sentinels know."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from mutirao import address
from mutirao.address import Address
from mutirao.settings import Settings


def connect(url: str, settings: Settings, **options: Any) -> redis.Redis:
    """Make a client; nothing connects before its first call.

    Args:
        url: the server's. TLS checks certificates and names, unless the URL's query says otherwise, as redis-py takes it.
        settings: for the master's name.
        options: redis-py's.
    """
    if address.scheme(url) != "sentinel":
        return redis.Redis.from_url(url, **options)
    read = address.read(url)
    sentinels = redis.sentinel.Sentinel(read.hosts, sentinel_kwargs=_timeouts(options))
    master: redis.Redis = sentinels.master_for(
        settings.sentinel_master, connection_pool_class=_Pool, **_of_master(read), **options
    )
    return master


def connect_async(url: str, settings: Settings, **options: Any) -> redis.asyncio.Redis:
    """Make a client for the running event loop; the arguments are those of `connect`."""
    if address.scheme(url) != "sentinel":
        return redis.asyncio.Redis.from_url(url, **options)
    read = address.read(url)
    sentinels = redis.asyncio.sentinel.Sentinel(read.hosts, sentinel_kwargs=_timeouts(options))
    master: redis.asyncio.Redis = sentinels.master_for(
        settings.sentinel_master, connection_pool_class=_AsyncPool, **_of_master(read), **options
    )
    return master


class _Pool(redis.sentinel.SentinelConnectionPool):
    """Closes the connections to the sentinels together with those to the master."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                sentinel.close()


class _AsyncPool(redis.asyncio.sentinel.SentinelConnectionPool):
    """The same on an event loop."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def _of_master(read: Address) -> dict[str, Any]:
    """Choose what is said to the master; the URL's user and password are its own, as kombu has it."""
    login = {name: value for name, value in (("username", read.user), ("password", read.password)) if value}
    return {**_parsed(read), **login, "db": read.db}


def _parsed(read: Address) -> dict[str, Any]:
    query = "&".join(f"{name}={value}" for name, value in read.query.items())
    found: dict[str, Any] = redis.connection.parse_url(f"redis://?{query}")
    return found


def _timeouts(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name.startswith("socket_")}
