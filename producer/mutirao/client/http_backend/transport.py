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
_CLOSED = "the client was closed during a call"
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)

C = TypeVar("C", httpx.Client, httpx.AsyncClient)


class HttpTransport:
    """Runs operations, blocking. Threads may share one; a fork gets its own connections."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing connects before the first call."""
        self._settings = settings
        self._pool: _ClientPool | None = None
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
            pool.close()

    def _reply(self, call: HttpCall) -> Any:
        for attempt in _attempts(self._settings.broker_url):
            try:
                attempt.answer(self._send(call))
            except httpx.HTTPError as exc:
                attempt.fail(exc)
            if attempt.reply is not None:
                return attempt.reply
            time.sleep(attempt.pause_s)
        raise AssertionError("the last attempt raises")

    def _send(self, call: HttpCall) -> httpx.Response:
        with self._limit:
            if call.wait_s:
                self._limit.extend(call.wait_s)
            pool, client = self._take()
            try:
                return client.send(_request(client, call, self._settings))
            finally:
                pool.put(client)

    def _take(self) -> tuple[_ClientPool, httpx.Client]:
        """Take a client from a pool that is open."""
        while True:
            pool = self._pool
            if pool is None or pool.process != os.getpid():
                pool = self._open_pool()
            client = pool.take()
            if client is not None:
                return pool, client

    def _open_pool(self) -> _ClientPool:
        with self._lock:
            # A fork drops its parent's pool without closing it: a thread of the parent may have held its lock at that moment.
            if self._pool is None or self._pool.process != os.getpid():
                self._pool = _ClientPool(self._settings)
                weakref.finalize(self, self._pool.close)
            return self._pool


class _IdleClients(Generic[C]):
    """Idle clients of one connection each; the one used last is taken first.

    One client of many connections looks through all of them, and through all calls that wait for one, at each call: many at once
    would cost the square of their number.
    """

    def __init__(self) -> None:
        self._clients: deque[tuple[C, float]] = deque()

    def take(self) -> C | None:
        return self._clients.pop()[0] if self._clients else None

    def put(self, client: C) -> Iterator[C]:
        """Keep a client, and yield those that have been idle for too long, to be closed."""
        now = time.monotonic()
        self._clients.append((client, now))
        while now - self._clients[0][1] > IDLE_S:
            yield self._clients.popleft()[0]

    def all(self) -> list[C]:
        clients = [client for client, _ in self._clients]
        self._clients.clear()
        return clients


class _ClientPool:
    """Clients that are closed when they are to end, each when the call that uses it is done: others would get its descriptors.

    Attributes:
        process: whose they are.
    """

    def __init__(self, settings: Settings) -> None:
        self.process = os.getpid()
        self._settings = settings
        self._idle: _IdleClients[httpx.Client] = _IdleClients()
        self._closed = False
        self._lock = threading.Lock()

    def take(self) -> httpx.Client | None:
        """Take a client for a call; None where they are to end."""
        with self._lock:
            if self._closed:
                return None
            found = self._idle.take()
        return found if found is not None else _client(self._settings)

    def put(self, client: httpx.Client) -> None:
        """Give it back."""
        with self._lock:
            left = [client] if self._closed else list(self._idle.put(client))
        for each in left:
            each.close()

    def close(self) -> None:
        """Take no more calls; in a fork they are the parent's."""
        if self.process != os.getpid():
            return
        with self._lock:
            self._closed = True
            left = self._idle.all()
        for each in left:
            each.close()


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Callable[[str], tuple[int, bytes]]]:
    """Open a connection for plain GET requests, which are sent once and return any status.

    Raises:
        BrokerUnavailable: no answer came in time.
    """
    with _client(settings, timeout=settings.timeout_s) as client:

        def ask(path: str) -> tuple[int, bytes]:
            response = client.get(path)
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
        self._idle: _IdleClients[httpx.AsyncClient] = _IdleClients()
        self._closed = False
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
        self._closed = True
        for client in self._idle.all():
            await client.aclose()

    async def _reply(self, call: HttpCall) -> Any:
        for attempt in _attempts(self._settings.broker_url):
            try:
                response = await (self._send(call) if call.polls else self._in_turn(call))
                attempt.answer(response)
            except httpx.HTTPError as exc:
                attempt.fail(exc)
            if attempt.reply is not None:
                return attempt.reply
            await asyncio.sleep(attempt.pause_s)
        raise AssertionError("the last attempt raises")

    async def _in_turn(self, call: HttpCall) -> httpx.Response:
        """Send it in its turn; long polls have none, since they would keep others from theirs, and are few."""
        async with self._limit.acquired():
            if call.wait_s:
                self._limit.extend(call.wait_s)
            return await self._send(call)

    async def _send(self, call: HttpCall) -> httpx.Response:
        if self._closed:
            raise errors.MutiraoError(_CLOSED)
        client = self._idle.take() or _async_client(self._settings)
        try:
            return await client.send(_request(client, call, self._settings))
        finally:
            for each in [client] if self._closed else list(self._idle.put(client)):
                await each.aclose()


class _Attempt:
    """One of several: it ends with a reply, with an error that is raised, or with a pause before the next."""

    def __init__(self, url: str, pause_s: float | None) -> None:
        self.reply: Reply | None = None
        self._url = url
        self._last = pause_s is None
        self.pause_s = pause_s or 0.0

    def answer(self, response: httpx.Response) -> None:
        if response.status_code < 300:
            self.reply = Reply(response.headers, response.content)
            return
        error = error_from(response.status_code, response.content, self._url)
        between = response.status_code in _RETRIED and isinstance(error, errors.BrokerUnavailable) and error.url
        if self._last or not between:
            raise error

    def fail(self, error: httpx.HTTPError) -> None:
        if self._last or not isinstance(error, _BROKEN):
            raise _failed(self._url, error) from error


def _attempts(url: str) -> Iterator[_Attempt]:
    for pause_s in (*PAUSES_S, None):
        yield _Attempt(url, pause_s)


def _failed(url: str, error: httpx.HTTPError) -> errors.BrokerUnavailable:
    return unavailable(url, " ".join(str(error).split()) or type(error).__name__)


def _client(settings: Settings, **arguments: Any) -> httpx.Client:
    transport = httpx.HTTPTransport(**_transport_options(settings))
    return httpx.Client(transport=transport, **_client_options(settings), **arguments)


def _async_client(settings: Settings) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(**_transport_options(settings)), **_client_options(settings)
    )


def _transport_options(settings: Settings) -> dict[str, Any]:
    return {
        "verify": _certificates(),
        "limits": httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_S),
        "socket_options": options(settings.timeout_s),
    }


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Load the trusted certificates once: it takes as long as some calls."""
    return httpx.create_ssl_context()


def _client_options(settings: Settings) -> dict[str, Any]:
    key = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    return {
        "base_url": settings.broker_url,
        "headers": {"accept": "application/json", "user-agent": "mutirao", **key},
    }


def _request(client: httpx.Client | httpx.AsyncClient, call: HttpCall, settings: Settings) -> httpx.Request:
    within_s = settings.timeout_s + call.wait_s
    return client.build_request(
        call.method,
        call.path,
        params=dict(call.query) or None,
        content=call.body or None,
        headers=dict(call.headers),
        timeout=httpx.Timeout(settings.timeout_s, read=within_s),
    )
