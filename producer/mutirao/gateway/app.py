"""Build the gateway's application: its state, its routes, its error responses."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from litestar import Litestar
from litestar.types import ASGIApp

from mutirao.api_keys import ApiKeys
from mutirao.gateway.auth import authenticator
from mutirao.gateway.endpoint import endpoint
from mutirao.gateway.middleware import Middleware
from mutirao.gateway.requests.request import Request
from mutirao.gateway.responses import error_response, response
from mutirao.gateway.responses.response import Response
from mutirao.gateway.routes import console, docs, jobs, metrics, models, v2
from mutirao.gateway.state.gateway import Gateway
from mutirao.redisdb.drivers import RedisDriver
from mutirao.settings import Settings
from mutirao.urls import is_loopback


def build(settings: Settings) -> tuple[Gateway, ASGIApp]:
    """Build a gateway.

    Returns:
        Its state and the ASGI application; nothing connects before that starts.
    """
    gateway = Gateway(settings)
    return gateway, Middleware(gateway, _routed(gateway))


def refuse_open(settings: Settings) -> None:
    """Refuse to serve other machines without API keys.

    Raises:
        SettingsError: the gateway listens beyond this machine, and there are no keys.
    """
    if is_loopback(settings.gateway_host):
        return
    redis = RedisDriver(settings)
    try:
        authenticator.refuse_open(settings.gateway_host, has_keys=redis.run(ApiKeys(settings).any()))
    finally:
        redis.close()


def _routed(gateway: Gateway) -> Litestar:
    @contextlib.asynccontextmanager
    async def running(app: Litestar) -> AsyncIterator[None]:
        app.state.gateway = gateway
        async with gateway.running():
            yield

    return Litestar(
        [*_options(handlers()), *handlers()],
        exception_handlers={Exception: error_response.handler},
        lifespan=[running],
        logging_config=None,
        openapi_config=None,
        request_max_body_size=None,
    )


def handlers() -> list[Any]:
    """Return every route of the gateway."""
    return [*v2.routes, *jobs.routes, *models.routes, *console.routes, *metrics.routes, *_PAGES]


def _options(routes: Iterable[Any]) -> list[Any]:
    """Return an OPTIONS route for each path: Litestar's own knows only one of several handlers of a path."""
    methods: dict[str, set[str]] = {}
    for route in routes:
        for path in route.paths:
            methods.setdefault(path, {"OPTIONS"}).update(
                route.http_methods, {"HEAD"} if "GET" in route.http_methods else ()
            )
    return [_option(path, ", ".join(sorted(found))) for path, found in methods.items()]


def _option(path: str, allowed: str) -> Any:
    @endpoint("OPTIONS", path)
    async def options(gateway: Gateway, request: Request, **_: str) -> Response:  # noqa: ARG001 - a handler's signature
        """Name the methods of an address."""
        return response.nothing().with_header(b"allow", allowed)

    return options


_PAGES = docs.routes(handlers)
