"""The console: a page at `/` that shows what is served, live, and lets a person try a model; and the fleet as it reads it."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import PurePath
from typing import NamedTuple

from litestar.exceptions import NotFoundException

from mutirao.gateway.endpoint import endpoint
from mutirao.gateway.openapi.route_doc import RouteDoc
from mutirao.gateway.requests.request import Request
from mutirao.gateway.responses import response
from mutirao.gateway.responses.response import EventStream, Headers, Response
from mutirao.gateway.state.fleet import Fleet
from mutirao.gateway.state.gateway import Gateway
from mutirao.gateway.streams.fleet_stream import FleetStream

_MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_TAG = "Fleet"
# Kept, and asked for again each time.
_ASKED = b"no-cache"


class Asset(NamedTuple):
    """A file of the page.

    Attributes:
        body: its bytes.
        media: its type.
        tag: changes with its content.
    """

    body: bytes
    media: str
    tag: bytes


def _assets() -> dict[str, Asset]:
    return {
        path.name: Asset(body, _MEDIA[suffix], b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode())
        for path in files("mutirao.gateway").joinpath("console").iterdir()
        if (suffix := PurePath(path.name).suffix) in _MEDIA
        for body in (path.read_bytes(),)
    }


# Read once: what is served is this table alone, whatever a path says.
ASSETS = _assets()


@endpoint("GET", "/")
async def page(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001 - a handler's signature
    """Send the console's page."""
    return _served(ASSETS["index.html"], request)


@endpoint("GET", "/console/{name:str}")
async def asset(gateway: Gateway, request: Request, name: str) -> Response:  # noqa: ARG001
    """Send a file of the page."""
    if name not in ASSETS:
        raise NotFoundException
    return _served(ASSETS[name], request)


@endpoint("GET", "/favicon.ico")
async def favicon(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001
    """Send the mark: pages other than the console's do not name it."""
    return _served(ASSETS["icon.svg"], request)


@endpoint("GET", "/v1/fleet", doc=RouteDoc(tag=_TAG, answer=Fleet, refusals=(401, 403, 503)))
async def look(gateway: Gateway, request: Request) -> Response:
    """Return the models, how many requests wait for each, and the live workers."""
    _may_look(request)
    return response.json((await gateway.fleet()).shown_to(request.caller))


@endpoint("GET", "/v1/fleet/events", doc=RouteDoc(tag=_TAG, forms=(response.EVENTS,), refusals=(401, 403, 503)))
async def follow(gateway: Gateway, request: Request) -> Response:
    """Send an event `fleet` a second, with what `/v1/fleet` returns; each `id` is higher than the last."""
    _may_look(request)
    stream = FleetStream(gateway.fleet_broadcaster, request.caller)
    return EventStream(stream.pieces(), gateway.hold_open(stream, request.caller))


routes = [page, asset, favicon, look, follow]


def _may_look(request: Request) -> None:
    """Make sure that there is anything that the caller may see.

    Raises:
        Forbidden: its key neither reads a model nor operates.
    """
    verbs = {scope.partition(":")[0] for scope in request.caller.scopes}
    if not verbs & {"read", "operate", "*"}:
        request.caller.require("read")


def _served(found: Asset, request: Request) -> Response:
    headers: Headers = [(b"etag", found.tag)]
    if found.tag in request.headers.get(b"if-none-match", b"").replace(b"W/", b"").split(b", "):
        return Response(304, b"", found.media, headers, cache=_ASKED)
    return Response(200, found.body, found.media, headers, cache=_ASKED)
