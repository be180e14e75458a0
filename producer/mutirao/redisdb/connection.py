"""Clients of the Redis that a URL names: a server, one behind TLS or a socket, or the master that sentinels know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

import hiredis
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from mutirao import urls
from mutirao.settings import Settings
from mutirao.urls import RedisURL


def connect(url: str, settings: Settings, **options: Any) -> redis.Redis:
    """Return a client; nothing connects before its first command.

    Args:
        url: the server's URL. TLS checks certificates and host names, unless the query turns that off with redis-py's options.
        settings: the settings with the master's name.
        options: options of redis-py.
    """
    client: redis.Redis = _client(redis, _Pool, url, settings, {"command_packer": Packer(), **options})
    return client


def connect_async(url: str, settings: Settings, **options: Any) -> redis.asyncio.Redis:
    """Return a client for the running event loop; the arguments are those of `connect`."""
    client: redis.asyncio.Redis = _client(redis.asyncio, _AsyncPool, url, settings, options)
    pool: Any = client.connection_pool
    pool.connection_class = _CONNECTION_CLASSES.get(pool.connection_class, pool.connection_class)
    return client


def _client(library: Any, pool: type, url: str, settings: Settings, options: dict[str, Any]) -> Any:
    """Return a client of redis-py's blocking or asyncio half."""
    if urls.scheme(url) == "sentinel":
        parsed = urls.parse(url)
        sentinels = library.sentinel.Sentinel(parsed.hosts, sentinel_kwargs=_timeouts(options))
        master = _master_options(parsed)
        return sentinels.master_for(settings.sentinel_master, connection_pool_class=pool, **master, **options)
    if urls.scheme(url) in urls.SOCKETS:
        url, options = _socket_url(url), _socket_options(options)
    return library.Redis.from_url(url, **options)


class Packer:
    """Packs commands with hiredis directly: redis-py's packer first inspects each of perhaps ten thousand arguments."""

    def pack(self, name: str | bytes, *args: Any) -> list[bytes]:
        """Pack one command; its name may have several words."""
        words = (name if isinstance(name, bytes) else name.encode()).split()
        try:
            return [hiredis.pack_command((*words, *args))]
        except TypeError as exc:
            raise redis.DataError(str(exc)) from exc


class _FastPacking:
    """Packing with hiredis for redis-py's asyncio connections, which take no packer."""

    def pack_command(self, *args: Any) -> list[bytes]:
        return Packer().pack(*args)

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(packed for command in commands for packed in Packer().pack(*command))]

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        try:
            await super()._send_packed_command(command)  # type: ignore[misc]
        except RuntimeError as exc:  # how uvloop reports a connection that the peer has closed
            raise ConnectionResetError(str(exc)) from exc


_CONNECTION_CLASSES: dict[type, type] = {
    kind: type(f"Fast{kind.__name__}", (_FastPacking, kind), {})
    for kind in (
        redis.asyncio.Connection,
        redis.asyncio.SSLConnection,
        redis.asyncio.UnixDomainSocketConnection,
        redis.asyncio.sentinel.SentinelManagedConnection,
    )
}


class _Pool(redis.sentinel.SentinelConnectionPool):
    """Closes the connections to the sentinels together with those to the master."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                sentinel.close()


class _AsyncPool(redis.asyncio.sentinel.SentinelConnectionPool):
    """The same for an event loop."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def _master_options(parsed: RedisURL) -> dict[str, Any]:
    """Return the options for the master; the URL's user and password are the master's, as in kombu."""
    login = {name: value for name, value in (("username", parsed.user), ("password", parsed.password)) if value}
    return {**_query_options(parsed), **login, "db": parsed.db}


def _socket_url(url: str) -> str:
    """Return the URL of a socket as redis-py writes it."""
    parsed = urls.parse(url)
    query = urlencode({"db": parsed.db, **parsed.query})
    return parsed.explicit().replace("redis+socket", "unix", 1).partition("?")[0] + f"?{query}"


def _socket_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if not name.startswith("socket_keepalive")}


def _query_options(parsed: RedisURL) -> dict[str, Any]:
    query = "&".join(f"{name}={value}" for name, value in parsed.query.items())
    options: dict[str, Any] = redis.connection.parse_url(f"redis://?{query}")
    return options


def _timeouts(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name.startswith("socket_")}
