"""Running exchanges with httpx, blocking and on an event loop: connections, limits of time, and what is tried again."""

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

from mutirao import errors, operations
from mutirao.client.http_backend.exchange import HttpCall, Operation, Reply, T, refused, unavailable
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

# A connection that broke is tried again for about a second, as with Redis; a gateway that does not answer is not.
PAUSES_S = (0.05, 0.1, 0.2, 0.5)
# What a balancer says while the gateway behind it changes.
_BETWEEN = (502, 503)
# Calls that have a connection of their own at once, beside long polls. A gateway does one after another, so more would wait there.
AT_ONCE = 64
# A connection that nobody uses for so long is closed.
IDLE_S = 30.0
_CLOSED = "the client was closed during a call"
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)

C = TypeVar("C", httpx.Client, httpx.AsyncClient)


class HttpTransport:
    """Runs operations, blocking. Threads may share one; a fork gets its own connections."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing connects before the first call."""
        self._settings = settings
        self._held: _Held | None = None
        self._lock = PerProcessLock()
        self._limit = ConcurrencyLimit(settings.timeout_s, AT_ONCE, httpx.PoolTimeout)
        self._flights = SingleFlight()

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: the gateway did not answer in time, or whoever answered is none.
            MutiraoError: what the gateway refused.
        """
        return operations.run(operation, self._reply, self._flights)

    def close(self) -> None:
        """Close every connection: that of a call which a thread is about when the call ends; a later call opens new ones."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            held.end()

    def _reply(self, exchange: HttpCall) -> Any:
        for attempt in _attempts(self._settings.broker_url):
            try:
                attempt.answer(self._sent(exchange))
            except httpx.HTTPError as exc:
                attempt.fail(exc)
            if attempt.reply is not None:
                return attempt.reply
            time.sleep(attempt.pause_s)
        raise AssertionError("the last attempt raises")

    def _sent(self, exchange: HttpCall) -> httpx.Response:
        with self._limit:
            if exchange.wait_s:
                self._limit.extend(exchange.wait_s)
            held, client = self._taken()
            try:
                return client.send(_request(client, exchange, self._settings))
            finally:
                held.put(client)

    def _taken(self) -> tuple[_Held, httpx.Client]:
        """Take a client of those that nobody has closed."""
        while True:
            held = self._held
            if held is None or held.process != os.getpid():
                held = self._opened()
            client = held.take()
            if client is not None:
                return held, client

    def _opened(self) -> _Held:
        with self._lock:
            # What a fork has of its parent is let go of and not closed: a thread of the parent may have been about it at that moment.
            if self._held is None or self._held.process != os.getpid():
                self._held = _Held(self._settings)
                weakref.finalize(self, self._held.end)
            return self._held


class _Idle(Generic[C]):
    """Clients of one connection each that nobody uses; the last that was used is the next.

    One client of many connections looks through all of them, and through all calls that wait for one, at each call: many at once
    would cost the square of their number.
    """

    def __init__(self) -> None:
        self._clients: deque[tuple[C, float]] = deque()

    def take(self) -> C | None:
        return self._clients.pop()[0] if self._clients else None

    def put(self, client: C) -> Iterator[C]:
        """Keep one, and yield those that are to be closed, since nobody has used them for long."""
        now = time.monotonic()
        self._clients.append((client, now))
        while now - self._clients[0][1] > IDLE_S:
            yield self._clients.popleft()[0]

    def all(self) -> list[C]:
        clients = [client for client, _ in self._clients]
        self._clients.clear()
        return clients


class _Held:
    """Clients that are closed when they are to end, each when the call that uses it is done: others would get its descriptors.

    Attributes:
        process: whose they are.
    """

    def __init__(self, settings: Settings) -> None:
        self.process = os.getpid()
        self._settings = settings
        self._idle: _Idle[httpx.Client] = _Idle()
        self._over = False
        self._lock = threading.Lock()

    def take(self) -> httpx.Client | None:
        """Take a client for a call; None where they are to end."""
        with self._lock:
            if self._over:
                return None
            found = self._idle.take()
        return found if found is not None else _client(self._settings)

    def put(self, client: httpx.Client) -> None:
        """Give it back."""
        with self._lock:
            left = [client] if self._over else list(self._idle.put(client))
        for each in left:
            each.close()

    def end(self) -> None:
        """Take no more calls; in a fork they are the parent's."""
        if self.process != os.getpid():
            return
        with self._lock:
            self._over = True
            left = self._idle.all()
        for each in left:
            each.close()


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Callable[[str], tuple[int, bytes]]]:
    """Ask for addresses as they are, once each and whatever the status: what to make of it is the asker's.

    Raises:
        BrokerUnavailable: nobody answered in time.
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
        self._idle: _Idle[httpx.AsyncClient] = _Idle()
        self._closed = False
        self._limit = AsyncConcurrencyLimit(settings.timeout_s, AT_ONCE, httpx.PoolTimeout)
        self._flights = AsyncSingleFlight()

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: the gateway did not answer in time, or whoever answered is none.
            MutiraoError: what the gateway refused.
        """
        return await operations.run_async(operation, self._reply, self._flights)

    async def close(self) -> None:
        """Close every connection, for good: that of a call which is under way when the call ends."""
        self._closed = True
        for client in self._idle.all():
            await client.aclose()

    async def _reply(self, exchange: HttpCall) -> Any:
        for attempt in _attempts(self._settings.broker_url):
            try:
                response = await (self._sent(exchange) if exchange.polls else self._in_turn(exchange))
                attempt.answer(response)
            except httpx.HTTPError as exc:
                attempt.fail(exc)
            if attempt.reply is not None:
                return attempt.reply
            await asyncio.sleep(attempt.pause_s)
        raise AssertionError("the last attempt raises")

    async def _in_turn(self, exchange: HttpCall) -> httpx.Response:
        """Send it in its turn; long polls have none, since they would keep others from theirs, and are few."""
        async with self._limit.acquired():
            if exchange.wait_s:
                self._limit.extend(exchange.wait_s)
            return await self._sent(exchange)

    async def _sent(self, exchange: HttpCall) -> httpx.Response:
        if self._closed:
            raise errors.MutiraoError(_CLOSED)
        client = self._idle.take() or _async_client(self._settings)
        try:
            return await client.send(_request(client, exchange, self._settings))
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
        error = refused(response.status_code, response.content, self._url)
        between = response.status_code in _BETWEEN and isinstance(error, errors.BrokerUnavailable) and error.url
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


def _client(settings: Settings, **given: Any) -> httpx.Client:
    transport = httpx.HTTPTransport(**_connections(settings))
    return httpx.Client(transport=transport, **_every(settings), **given)


def _async_client(settings: Settings) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(**_connections(settings)), **_every(settings))


def _connections(settings: Settings) -> dict[str, Any]:
    return {
        "verify": _certificates(),
        "limits": httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_S),
        "socket_options": options(settings.timeout_s),
    }


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read once whom to trust: it takes as long as some calls."""
    return httpx.create_ssl_context()


def _every(settings: Settings) -> dict[str, Any]:
    key = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    return {
        "base_url": settings.broker_url,
        "headers": {"accept": "application/json", "user-agent": "mutirao", **key},
    }


def _request(client: httpx.Client | httpx.AsyncClient, exchange: HttpCall, settings: Settings) -> httpx.Request:
    within_s = settings.timeout_s + exchange.wait_s
    return client.build_request(
        exchange.method,
        exchange.path,
        params=dict(exchange.query) or None,
        content=exchange.body or None,
        headers=dict(exchange.headers),
        timeout=httpx.Timeout(settings.timeout_s, read=within_s),
    )
