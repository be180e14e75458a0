"""Models: `/v1/models` lists them, `/v1/models/{m}` shows one."""

from __future__ import annotations

from typing import Any

from mutirao import keyspace
from mutirao.gateway.endpoint import endpoint
from mutirao.gateway.openapi.route_doc import RouteDoc
from mutirao.gateway.requests.request import Request
from mutirao.gateway.responses import presenters, response
from mutirao.gateway.responses.presenters import Models
from mutirao.gateway.responses.response import Response
from mutirao.gateway.state.gateway import Gateway
from mutirao.gateway.state.queue_stats_cache import total


@endpoint("GET", "/v1/models", doc=RouteDoc(tag="Models", answer=Models, refusals=(503,)))
async def models(gateway: Gateway, request: Request) -> Response:
    """List the models: their inputs and outputs, the workers that serve them, and how many requests wait."""
    registry = await gateway.registry()
    infos = [info for name, info in sorted(registry.models.items()) if request.caller.may("read", name)]
    depths = await gateway.queue_stats.of(tuple(registry.models))
    shown = (
        presenters.model(info, registry.rate(info.name), total(info.name, depths.get(info.name, ()))) for info in infos
    )
    return response.json(Models(models=tuple(shown)))


@endpoint(
    "GET", "/v1/models/{model:str}", doc=RouteDoc(tag="Models", answer=presenters.ModelView, refusals=(400, 404, 503))
)
async def model(gateway: Gateway, request: Request, model: str) -> Response:
    """Return one model: its inputs and outputs, the workers that serve it, and how many requests wait."""
    request.caller.require("read", model)
    registry = await gateway.registry()
    info = registry.models.get(keyspace.model_name(model))
    if info is None:
        info = registry.find(model)
    depths = await gateway.queue_stats.of(tuple(registry.models))
    return response.json(presenters.model(info, registry.rate(info.name), total(info.name, depths.get(info.name, ()))))


routes: list[Any] = [models, model]
