"""Running exchanges with httpx, blocking and on an event loop: connections, limits of time, and what is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from mutirao import errors
from mutirao.http.exchange import Exchange, Operation, Reply, T, refused, unavailable
from mutirao.settings import Settings
from mutirao.sharing import AsyncFlights, Flights, Shared
from mutirao.sockets import options

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
_CLOSED = "the client was closed during a call"
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)


class Http:
    """Runs operations, blocking. Threads may share one; a fork gets its own connections."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing connects before the first call."""
        self._settings = settings
        self._held: _Held | None = None
        self._lock = threading.Lock()
        self._flights = Flights()

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: the gateway did not answer in time, or whoever answered is none.
            MutiraoError: what the gateway refused.
        """
        try:
            exchange = next(operation)
            while True:
                try:
                    reply = self._reply(exchange)
                except errors.MutiraoError as exc:
                    exchange = operation.throw(exc)
                else:
                    exchange = operation.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def close(self) -> None:
        """Close every connection, when no thread's call is under way over any; a later call opens new ones."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            held.end()

    def _reply(self, exchange: Exchange | Shared) -> Any:
        if isinstance(exchange, Shared):
            return self._flights.join(exchange.name, lambda: self.run(exchange.steps()))
        for attempt in _attempts(self._settings.broker_url):
            held = self._begun()
            try:
                attempt.answer(held.client.send(_request(held.client, exchange, self._settings)))
            except httpx.HTTPError as exc:
                attempt.fail(exc)
            finally:
                held.done()
            if attempt.reply is not None:
                return attempt.reply
            time.sleep(attempt.pause_s)
        raise AssertionError("the last attempt raises")

    def _begun(self) -> _Held:
        """Begin a call with a client that nobody has closed."""
        while True:
            held = self._held
            if held is None or held.process != os.getpid():
                held = self._opened()
            if held.begin():
                return held

    def _opened(self) -> _Held:
        with self._lock:
            if self._held is not None and self._held.process != os.getpid():
                self._held.client.close()  # of the parent: its own connections stay open
                self._held = None
            if self._held is None:
                self._held = _Held(_client(self._settings))
                weakref.finalize(self, self._held.end)
            return self._held


class _Held:
    """A client that is closed when it is to end and no call is under way: in the midst of one, others would get its descriptors.

    Attributes:
        client: httpx's.
        process: whose it is.
    """

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.process = os.getpid()
        self._calls = 0
        self._over = False
        self._lock = threading.Lock()

    def begin(self) -> bool:
        """Count a call; False where it is to end."""
        with self._lock:
            self._calls += not self._over
            return not self._over

    def done(self) -> None:
        """Count a call as done."""
        with self._lock:
            self._calls -= 1
            last = self._over and not self._calls
        if last:
            self.client.close()

    def end(self) -> None:
        """Take no more calls, and close when the last is done."""
        with self._lock:
            self._over = True
            idle = not self._calls
        if idle:
            self.client.close()


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


class AsyncHttp:
    """Runs operations on the running event loop."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing connects before the first call."""
        self._settings = settings
        self._client: httpx.AsyncClient | None = None
        self._calls = 0
        self._closed = False
        self._flights = AsyncFlights()

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: the gateway did not answer in time, or whoever answered is none.
            MutiraoError: what the gateway refused.
        """
        try:
            exchange = next(operation)
            while True:
                try:
                    reply = await self._reply(exchange)
                except errors.MutiraoError as exc:
                    exchange = operation.throw(exc)
                else:
                    exchange = operation.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def close(self) -> None:
        """Close every connection, for good, when no call is under way over any: httpx would forget some of theirs."""
        self._closed = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        if self._closed and not self._calls and self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _reply(self, exchange: Exchange | Shared) -> Any:
        if isinstance(exchange, Shared):
            return await self._flights.join(exchange.name, lambda: self.run(exchange.steps()))
        for attempt in _attempts(self._settings.broker_url):
            if self._closed:
                raise errors.MutiraoError(_CLOSED)
            client = self._client = self._client or _async_client(self._settings)
            self._calls += 1
            try:
                attempt.answer(await client.send(_request(client, exchange, self._settings)))
            except httpx.HTTPError as exc:
                attempt.fail(exc)
            finally:
                self._calls -= 1
                await self._close_idle()
            if attempt.reply is not None:
                return attempt.reply
            await asyncio.sleep(attempt.pause_s)
        raise AssertionError("the last attempt raises")


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
        # As many threads as call at once have a connection each.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=30.0),
        "socket_options": options(settings.timeout_s),
    }


def _every(settings: Settings) -> dict[str, Any]:
    key = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    return {
        "base_url": settings.broker_url,
        "headers": {"accept": "application/json", "user-agent": "mutirao", **key},
    }


def _request(client: httpx.Client | httpx.AsyncClient, exchange: Exchange, settings: Settings) -> httpx.Request:
    within_s = settings.timeout_s + exchange.wait_s
    return client.build_request(
        exchange.method,
        exchange.path,
        params=dict(exchange.query) or None,
        content=exchange.body or None,
        headers=dict(exchange.headers),
        timeout=httpx.Timeout(settings.timeout_s, read=within_s),
    )
