"""Build the gateway's application: routes, what they share, and how errors are told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from litestar import Litestar
from litestar.types import ASGIApp

from mutirao.broker.redis import Redis
from mutirao.gateway import access, answers, console, jobs, pages, problems, protocol, scrape
from mutirao.gateway.answers import Answer
from mutirao.gateway.call import Call
from mutirao.gateway.door import Door
from mutirao.gateway.front import Front
from mutirao.gateway.routes import endpoint
from mutirao.keys import Keys
from mutirao.settings import Settings


def build(settings: Settings) -> tuple[Front, ASGIApp]:
    """Build a gateway.

    Returns:
        What its handlers share, and the ASGI application; nothing connects before that starts.
    """
    front = Front(settings)
    return front, Door(front, _routed(front))


def refuse_open(settings: Settings) -> None:
    """Make sure that a gateway that others reach has keys.

    Raises:
        SettingsError: it has none.
    """
    if access.is_loopback(settings.gateway_host):
        return
    redis = Redis(settings)
    try:
        access.refuse_open(settings.gateway_host, has_keys=redis.run(Keys(settings).any()))
    finally:
        redis.close()


def _routed(front: Front) -> Litestar:
    @contextlib.asynccontextmanager
    async def running(app: Litestar) -> AsyncIterator[None]:
        app.state.front = front
        async with front.running():
            yield

    return Litestar(
        [*_options(handlers()), *handlers()],
        exception_handlers={Exception: problems.handler},
        lifespan=[running],
        logging_config=None,
        openapi_config=None,
        request_max_body_size=None,
    )


def handlers() -> list[Any]:
    """List every route of the gateway."""
    return [*protocol.routes, *jobs.routes, *console.routes, *scrape.routes, *_PAGES]


def _options(routes: Iterable[Any]) -> list[Any]:
    """Make a route for each address that names its methods: those of Litestar's own know one of several handlers alone."""
    methods: dict[str, set[str]] = {}
    for route in routes:
        for path in route.paths:
            methods.setdefault(path, {"OPTIONS"}).update(
                route.http_methods, {"HEAD"} if "GET" in route.http_methods else ()
            )
    return [_option(path, ", ".join(sorted(found))) for path, found in methods.items()]


def _option(path: str, allowed: str) -> Any:
    @endpoint("OPTIONS", path)
    async def options(front: Front, call: Call, **_: str) -> Answer:  # noqa: ARG001 - a handler's signature
        """Name the methods of an address."""
        return answers.nothing().with_header(b"allow", allowed)

    return options


_PAGES = pages.routes(handlers)
