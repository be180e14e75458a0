"""Build the gateway's application: routes, what they share, and how errors are told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar
from litestar.types import ASGIApp

from mutirao.broker.redis import Redis
from mutirao.gateway import access, console, jobs, pages, problems, protocol, scrape
from mutirao.gateway.door import Door
from mutirao.gateway.front import Front
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
        handlers(),
        exception_handlers={Exception: problems.handler},
        lifespan=[running],
        logging_config=None,
        openapi_config=None,
        request_max_body_size=None,
    )


def handlers() -> list[Any]:
    """List every route of the gateway."""
    return [*protocol.routes, *jobs.routes, *console.routes, *scrape.routes, *_PAGES]


_PAGES = pages.routes(handlers)
