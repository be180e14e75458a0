"""The HTTP transport with httpx, blocking and asyncio: connections, time limits and retries."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from mutirao import errors, operation_loop
from mutirao.client.http_backend.http_call import HttpCall, Operation, Reply, T, error_from, unavailable
from mutirao.redisdb.concurrency_limit import AsyncConcurrencyLimit, ConcurrencyLimit
from mutirao.settings import Settings
from mutirao.single_flight import AsyncSingleFlight, PerProcessLock, SingleFlight
from mutirao.socket_options import options

try:
    import httpx
except ImportError as missing:
    raise errors.SettingsError(
        "a broker URL that begins with http needs the package httpx: pip install '.[http]' in the folder of mutirão's source"
    ) from missing

# A call whose connection broke is retried for about a second, as with Redis; one that times out is not.
PAUSES_S = (0.05, 0.1, 0.2, 0.5)
# What a load balancer answers while the gateway behind it is replaced.
_RETRIED = (502, 503)
# Concurrent calls, long polls aside, each with a connection. A gateway serves one after another, so more would wait there.
CALLS_MAX = 64
# An idle connection is closed after this.
IDLE_S = 30.0
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)

C = TypeVar("C", httpx.HTTPTransport, httpx.AsyncHTTPTransport)


class HttpTransport:
    """Runs operations, blocking. Threads may share one; a fork gets its own connections."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing connects before the first call."""
        self._settings = settings
        self._pool: _ConnectionPool[httpx.HTTPTransport] | None = None
        self._lock = PerProcessLock()
        self._limit = ConcurrencyLimit(settings.timeout_s, CALLS_MAX, httpx.PoolTimeout)
        self._flights = SingleFlight()

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: the gateway did not answer in time, or no gateway answered.
            MutiraoError: what the gateway refused.
        """
        return operation_loop.run(operation, self._reply, self._flights)

    def close(self) -> None:
        """Close every connection, one that a thread uses when its call ends; a later call opens new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            _close(pool)

    def _reply(self, call: HttpCall) -> Reply:
        for pause_s in (*PAUSES_S, None):
            try:
                outcome: httpx.Response | httpx.HTTPError = self._send(call)
            except httpx.HTTPError as exc:
                outcome = exc
            reply = _reply_or_retry(outcome, self._settings.broker_url, last=pause_s is None)
            if reply is not None:
                return reply
            time.sleep(pause_s or 0.0)
        raise AssertionError("the last attempt raises")

    def _send(self, call: HttpCall) -> httpx.Response:
        with self._limit:
            if call.wait_s:
                self._limit.extend(call.wait_s)
            pool, connection = self._take()
            try:
                return _exchange(connection, _request(call, self._settings))
            finally:
                for unwanted in pool.put(connection):
                    unwanted.close()

    def _take(self) -> tuple[_ConnectionPool[httpx.HTTPTransport], httpx.HTTPTransport]:
        """Take a connection from a pool that is open."""
        while True:
            pool = self._pool
            if pool is None or pool.process != os.getpid():
                pool = self._open_pool()
            connection = pool.take()
            if connection is not None:
                return pool, connection

    def _open_pool(self) -> _ConnectionPool[httpx.HTTPTransport]:
        with self._lock:
            # A fork drops its parent's pool without closing it: a thread of the parent may have held its lock at that moment.
            if self._pool is None or self._pool.process != os.getpid():
                self._pool = _ConnectionPool(functools.partial(_connection, self._settings))
                weakref.finalize(self, _close, self._pool)
            return self._pool


class _ConnectionPool(Generic[C]):
    """Idle connections, of which the one used last is taken first; one is closed when the call that uses it is done.

    Each is an httpx transport of its own. A transport of many connections looks through all of them, and through all calls that wait
    for one, at each call: many at once would cost the square of their number.

    Attributes:
        process: whose they are.
    """

    def __init__(self, connect: Callable[[], C]) -> None:
        self.process = os.getpid()
        self._connect: Callable[[], C] = connect
        self._idle: deque[tuple[C, float]] = deque()
        self._closed = False
        self._lock = threading.Lock()

    def take(self) -> C | None:
        """Take a connection for a call; None where the pool is closed."""
        with self._lock:
            if self._closed:
                return None
            if self._idle:
                return self._idle.pop()[0]
        return self._connect()

    def put(self, connection: C) -> list[C]:
        """Take a connection back, and return those that its user is to close."""
        with self._lock:
            self._idle.append((connection, time.monotonic()))
            return self._unwanted()

    def close(self) -> list[C]:
        """Take no more calls, and return the connections to be closed."""
        with self._lock:
            self._closed = True
            return self._unwanted()

    def _unwanted(self) -> list[C]:
        now, unwanted = time.monotonic(), []
        while self._idle and (self._closed or now - self._idle[0][1] > IDLE_S):
            unwanted.append(self._idle.popleft()[0])
        return unwanted


def _close(pool: _ConnectionPool[httpx.HTTPTransport]) -> None:
    """Close a pool; in a fork it is the parent's."""
    if pool.process == os.getpid():
        for connection in pool.close():
            connection.close()


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Callable[[str], tuple[int, bytes]]]:
    """Open a connection for plain GET requests, which are sent once and return any status.

    Raises:
        BrokerUnavailable: no answer came in time.
    """
    with _connection(settings) as connection:

        def ask(path: str) -> tuple[int, bytes]:
            response = _exchange(connection, _request(HttpCall("GET", path), settings))
            return response.status_code, response.content

        try:
            yield ask
        except httpx.HTTPError as exc:
            raise _failed(settings.broker_url, exc) from exc


class AsyncHttpTransport:
    """Runs operations on the running event loop."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing connects before the first call."""
        self._settings = settings
        self._pool: _ConnectionPool[httpx.AsyncHTTPTransport] = _ConnectionPool(
            lambda: httpx.AsyncHTTPTransport(**_connection_options(settings))
        )
        self._limit = AsyncConcurrencyLimit(settings.timeout_s, CALLS_MAX, httpx.PoolTimeout)
        self._flights = AsyncSingleFlight()

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: the gateway did not answer in time, or no gateway answered.
            MutiraoError: what the gateway refused.
        """
        return await operation_loop.run_async(operation, self._reply, self._flights)

    async def close(self) -> None:
        """Close every connection for good; that of a call under way when the call ends."""
        for connection in self._pool.close():
            await connection.aclose()

    async def _reply(self, call: HttpCall) -> Reply:
        for pause_s in (*PAUSES_S, None):
            try:
                outcome: httpx.Response | httpx.HTTPError = await (
                    self._send(call) if call.polls else self._in_turn(call)
                )
            except httpx.HTTPError as exc:
                outcome = exc
            reply = _reply_or_retry(outcome, self._settings.broker_url, last=pause_s is None)
            if reply is not None:
                return reply
            await asyncio.sleep(pause_s or 0.0)
        raise AssertionError("the last attempt raises")

    async def _in_turn(self, call: HttpCall) -> httpx.Response:
        """Send it in its turn; long polls have none, since they would keep others from theirs, and are few."""
        async with self._limit.acquired():
            if call.wait_s:
                self._limit.extend(call.wait_s)
            return await self._send(call)

    async def _send(self, call: HttpCall) -> httpx.Response:
        connection = self._pool.take()
        if connection is None:
            raise errors.MutiraoError("the client was closed during a call")
        try:
            response = await connection.handle_async_request(_request(call, self._settings))
            try:
                await response.aread()
            finally:
                await response.aclose()
            return response
        finally:
            for unwanted in self._pool.put(connection):
                await unwanted.aclose()


def _exchange(connection: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
    with contextlib.closing(connection.handle_request(request)) as response:
        response.read()
        return response


def _reply_or_retry(outcome: httpx.Response | httpx.HTTPError, url: str, *, last: bool) -> Reply | None:
    """Return the reply that an attempt has brought, raise its error, or return None where the call is to be sent again."""
    if isinstance(outcome, httpx.HTTPError):
        if last or not isinstance(outcome, _BROKEN):
            raise _failed(url, outcome) from outcome
        return None
    if outcome.status_code < 300:
        return Reply(outcome.headers, outcome.content)
    error = error_from(outcome.status_code, outcome.content, url)
    if last or outcome.status_code not in _RETRIED or not getattr(error, "url", ""):
        raise error
    return None


def _failed(url: str, error: httpx.HTTPError) -> errors.BrokerUnavailable:
    return unavailable(url, " ".join(str(error).split()) or type(error).__name__)


def _connection(settings: Settings) -> httpx.HTTPTransport:
    return httpx.HTTPTransport(**_connection_options(settings))


def _connection_options(settings: Settings) -> dict[str, Any]:
    return {
        "verify": _certificates(),
        "limits": httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_S),
        "socket_options": options(settings.timeout_s),
    }


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Load the trusted certificates once: it takes as long as some calls."""
    return httpx.create_ssl_context()


@functools.lru_cache(maxsize=256)
def _url(gateway: str, path: str) -> httpx.URL:
    return httpx.URL(gateway.rstrip("/") + path)


def _request(call: HttpCall, settings: Settings) -> httpx.Request:
    """Build a request by hand: what httpx's client would merge into it is the same for each."""
    key = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    limits_s = dict.fromkeys(("connect", "write", "pool"), settings.timeout_s)
    return httpx.Request(
        call.method,
        _url(settings.broker_url, call.path),
        content=call.body or None,
        headers={
            "accept": "application/json", "accept-encoding": "gzip, deflate", "user-agent": "mutirao", **key, **call.headers,
        },
        extensions={"timeout": limits_s | {"read": settings.timeout_s + call.wait_s}},
    )  # fmt: skip
