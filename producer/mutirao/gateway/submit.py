"""From a body to a queued job, with all that may be refused before."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import msgspec

from mutirao import errors, keyspace, webhook_policy
from mutirao.client import encoding
from mutirao.client.encoding import SubmitOptions
from mutirao.gateway import coalescer
from mutirao.gateway.coalescer import Queued
from mutirao.gateway.requests import body_parsing, submit_options
from mutirao.gateway.requests.request import Request
from mutirao.gateway.requests.request_body import InferBody, ParsedBody
from mutirao.gateway.responses import response
from mutirao.gateway.responses.response import Response
from mutirao.gateway.state import Gateway
from mutirao.registry import ModelInfo
from mutirao.wire.http_schemas import JobView

__all__ = ["Queued", "Sent", "accepted", "many", "one"]

_NOTHING = InferBody()
T = TypeVar("T")


class Sent(NamedTuple):
    """A request that was read and queued.

    Attributes:
        queued: its job.
        ask: what was asked for.
        given: what stood around its data.
        rows: how many it has.
    """

    queued: Queued
    ask: SubmitOptions
    given: ParsedBody
    rows: int


async def one(
    gateway: Gateway, request: Request, info: ModelInfo, asked: Callable[[ParsedBody], SubmitOptions]
) -> Sent:
    """Read one request and queue it: with others that arrive at the same time, or alone where it has an id of its own.

    Its key is charged for it before it is parsed: a body that is refused costs too.

    Args:
        gateway: the gateway.
        request: the request.
        info: the model.
        asked: finds out what is asked for, once the body is read.

    Raises:
        InvalidRequest: it is none that the model takes.
        KeyReused: its Idempotency-Key was sent before, with another request.
        IdTaken: its own id belongs to a job with other content.
        WebhookRefused, TooLate, TooManyRequests: it may not be queued.
        QueueFull, BrokerUnavailable: it is not.
    """
    body = await request.raw(gateway.settings.max_request_bytes)
    own = submit_options.own_id(request)
    id = own or keyspace.qualified(keyspace.new_id(), request.caller.tenant)
    if request.caller.limits is None:
        return await _one(gateway, request, info, asked, body, id, named=own is not None)
    async with gateway.rate_limiter.admitted(request.caller, [id], submit_options.expires_s(request, _NOTHING)):
        return await _one(gateway, request, info, asked, body, id, named=own is not None)


async def many(
    gateway: Gateway, request: Request, info: ModelInfo, asked: Callable[[ParsedBody], SubmitOptions]
) -> tuple[ParsedBody, list[str], list[Queued]]:
    """Read many requests and queue them in one round trip, all of them or none.

    Returns:
        What stood around them, their ids as the caller knows them, and their jobs.

    Raises:
        InvalidRequest: a request is none that the model takes; or other ids than requests.
        IdTaken: an id belongs to a job with other content.
        WebhookRefused, TooLate, TooManyRequests: they may not be queued.
        QueueFull, BrokerUnavailable: they are not.
    """
    body = await request.raw(gateway.settings.max_request_bytes)
    await gateway.rate_limiter.charge(request.caller)
    read = await _read(body_parsing.many, gateway, request, body, info)
    ask, given, count = asked(read.given), read.given.body.ids, encoding.count(range(read.requests))
    ids = [keyspace.job_id(id) for id in given] if given is not None else keyspace.new_ids(count)
    if len(ids) != count:
        text = f"{len(set(ids))} ids were given for {count} requests"
        raise errors.InvalidRequest(text, reason="ids and requests differ")
    await _allowed(gateway, request, ask)
    qualified = [keyspace.qualified(id, request.caller.tenant) for id in ids]
    async with gateway.rate_limiter.admitted(request.caller, qualified, ask.expires_s, charged=1):
        made = await gateway.coalescer.many(ask, read.bound, qualified)
    gateway.recent.keep(made)
    return read.given, ids, made


def accepted(view: JobView, status: int) -> Response:
    """Answer with a job and its address."""
    return response.json(view, status).with_header(b"location", view.links.self)


async def _allowed(gateway: Gateway, request: Request, ask: SubmitOptions) -> None:
    """Refuse what would come to nothing, a webhook that nobody would call, a deadline that will have passed; and what is nobody's
    any more: the key may have been revoked while the body came.
    """
    gateway.authenticator.recheck(request.caller)
    if ask.webhook:
        webhook_policy.check_url(ask.webhook, gateway.settings.webhook_hosts)
    if ask.expires_s is not None:
        await gateway.late(ask.model, ask.tenant, ask.priority, ask.expires_s)


async def _one(
    gateway: Gateway,
    request: Request,
    info: ModelInfo,
    asked: Callable[[ParsedBody], SubmitOptions],
    body: bytes,
    id: str,
    *,
    named: bool,
) -> Sent:
    read = await _read(body_parsing.one, gateway, request, body, info)
    ask = asked(read.given)
    await _allowed(gateway, request, ask)
    if named:
        queued = await _named(gateway, request, ask, read.inputs, id)
    elif coalescer.is_large(read.inputs):
        (queued,) = await gateway.coalescer.many(ask, [read.inputs], [id], large=True)
    else:
        queued = await gateway.coalescer.one(ask, read.inputs, id)
    return Sent(queued, ask, read.given, read.rows)


async def _read(
    read: Callable[..., Awaitable[T]], gateway: Gateway, request: Request, body: bytes, info: ModelInfo
) -> T:
    """Read requests by the signature that is shown, or by that of another copy which a live worker serves."""
    limit = gateway.settings.max_request_bytes
    try:
        return await read(gateway.process_pool, request, body, info, limit)
    except errors.InvalidRequest:
        for other in info.variants:
            with contextlib.suppress(errors.InvalidRequest):
                return await read(
                    gateway.process_pool, request, body, msgspec.structs.replace(info, signature=other), limit
                )
        raise


async def _named(
    gateway: Gateway, request: Request, ask: SubmitOptions, inputs: body_parsing.Inputs, id: str
) -> Queued:
    try:
        (queued,) = await gateway.coalescer.many(ask, [inputs], [id], large=coalescer.is_large(inputs))
    except errors.IdTaken as exc:
        if submit_options.IDEMPOTENCY not in request.headers:
            raise
        text = "this Idempotency-Key was sent before, with another request: take a new key for a new request"
        raise errors.KeyReused(text, id=id) from exc
    return queued
