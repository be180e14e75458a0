"""The documentation: the OpenAPI document, and a page that shows it and fetches nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from litestar.exceptions import NotFoundException

from mutirao import errors
from mutirao.gateway.endpoint import endpoint
from mutirao.gateway.openapi import document
from mutirao.gateway.requests.request import Request
from mutirao.gateway.responses import response
from mutirao.gateway.responses.response import Response
from mutirao.gateway.state.gateway import Gateway
from mutirao.registry import ModelInfo

_HTML = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mutir\xc3\xa3o: the API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon-32x32.png">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
});
"""
_MEDIA = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".png": "image/png"}
_NAMES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
# They change with the package alone.
_KEPT = b"public, max-age=3600"


def routes(handlers: Callable[[], list[Any]]) -> list[Any]:
    """Make the routes of the documentation.

    Args:
        handlers: lists every route of the gateway.
    """
    files = _files()

    @endpoint("GET", "/openapi.json")
    async def openapi_json(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001 - a handler's signature
        """Return the OpenAPI document; its examples are of the models that an open gateway serves."""
        return response.json(document.build(handlers(), await _models(gateway)))

    @endpoint("GET", "/docs")
    async def page(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001
        """Show the documentation."""
        return Response(200, _HTML, "text/html; charset=utf-8")

    @endpoint("GET", "/docs/{name:str}")
    async def file(gateway: Gateway, request: Request, name: str) -> Response:  # noqa: ARG001
        """Send a file of that page."""
        if name not in files:
            raise NotFoundException
        body, media = files[name]
        return Response(200, body, media, cache=_KEPT)

    return [openapi_json, page, file]


async def _models(gateway: Gateway) -> list[ModelInfo]:
    """Name the models, unless that is for those with a key alone, or Redis is away."""
    try:
        if not await gateway.authenticator.is_open():
            return []
        return list((await gateway.registry()).models.values())
    except errors.BrokerUnavailable:
        return []


def _files() -> dict[str, tuple[bytes, str]]:
    """Read the page's files once: what is served is this table alone, whatever a path says."""
    found = {"start.js": (_START, _MEDIA[".js"])}
    package = find_spec("swagger_ui")  # not imported: its files alone are wanted
    for folder in package.submodule_search_locations or () if package else ():
        for name in _NAMES:
            path = Path(folder) / "static" / name
            found[name] = (path.read_bytes(), _MEDIA[path.suffix])
    return found
