"""Opening a client of the Redis that a URL names: a server, a server behind TLS, or the master that sentinels know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hiredis
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
    options = {"command_packer": Packer(), **options}
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
        client = redis.asyncio.Redis.from_url(url, **options)
        pool: Any = client.connection_pool
        pool.connection_class = _PACKED.get(pool.connection_class, pool.connection_class)
        return client
    read = address.read(url)
    sentinels = redis.asyncio.sentinel.Sentinel(read.hosts, sentinel_kwargs=_timeouts(options))
    master: redis.asyncio.Redis = sentinels.master_for(
        settings.sentinel_master, connection_pool_class=_AsyncPool, **_of_master(read), **options
    )
    return master


def denied(error: BaseException | None) -> bool:
    """Whether the server says that this user may not: at once, or within a script, where redis-py knows no class for it."""
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return True
    # Redis 6 and 7.0, then Redis 7.2 and Valkey.
    return isinstance(error, redis.ResponseError) and str(error).startswith(
        ("The user executing the script can't", "ACL failure in script")
    )


class Packer:
    """Writes commands as they are: redis-py's own looks at each of ten thousand arguments before it hands them to hiredis."""

    def pack(self, name: str | bytes, *args: Any) -> list[bytes]:
        """Write one command; its name may be of several words."""
        words = (name if isinstance(name, bytes) else name.encode()).split()
        try:
            return [hiredis.pack_command((*words, *args))]
        except TypeError as exc:
            raise redis.DataError(str(exc)) from exc


class _Packed:
    """The same for a connection of an event loop, which redis-py writes in Python."""

    def pack_command(self, *args: Any) -> list[bytes]:
        return Packer().pack(*args)

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(packed for command in commands for packed in Packer().pack(*command))]


class _AsyncConnection(_Packed, redis.asyncio.Connection):
    pass


class _AsyncSSLConnection(_Packed, redis.asyncio.SSLConnection):
    pass


_PACKED = {redis.asyncio.Connection: _AsyncConnection, redis.asyncio.SSLConnection: _AsyncSSLConnection}


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
