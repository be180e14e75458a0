"""Submit a request: parse its body, check what may be refused, queue its job."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from mutirao import errors, keyspace, webhook_policy
from mutirao.client import request_data
from mutirao.client.encoding import SubmitOptions
from mutirao.gateway.requests import large_bodies, submit_options
from mutirao.gateway.requests.request import Request
from mutirao.gateway.requests.v2_json import ParsedBody
from mutirao.gateway.responses import response
from mutirao.gateway.responses.response import Response
from mutirao.gateway.state import coalescer
from mutirao.gateway.state.coalescer import Queued
from mutirao.gateway.state.gateway import Gateway
from mutirao.registry import ModelInfo
from mutirao.wire.http_schemas import InferBody, JobView

_NO_BODY = InferBody()
T = TypeVar("T")


class Submitted(NamedTuple):
    """A request that was read and queued.

    Attributes:
        queued: its job.
        options: its options.
        parsed: its body.
        rows: how many rows it has.
    """

    queued: Queued
    options: SubmitOptions
    parsed: ParsedBody
    rows: int


async def one(
    gateway: Gateway, request: Request, info: ModelInfo, options_of: Callable[[ParsedBody], SubmitOptions]
) -> Submitted:
    """Parse one request and queue it: with others that arrive at the same time, or alone where it has an id of its own.

    It counts against its key's limits before it is parsed: a body that is refused costs too.

    Args:
        gateway: the gateway.
        request: the request.
        info: the model.
        options_of: gathers the options once the body is parsed.

    Raises:
        InvalidRequest: the model does not take it.
        KeyReused: its Idempotency-Key was sent before, with another request.
        IdTaken: its own id belongs to a job with other content.
        WebhookRefused, TooLate, TooManyRequests: it may not be queued.
        QueueFull, BrokerUnavailable: it is not.
    """
    body = await request.raw(gateway.settings.max_request_bytes)
    own_id = submit_options.own_job_id(request)
    id = own_id or keyspace.qualified(keyspace.new_id(), request.caller.tenant)
    limited = request.caller.limits is not None
    expires_s = submit_options.expires_s(request, _NO_BODY) if limited else None
    admitted = gateway.rate_limiter.admitted(request.caller, [id], expires_s) if limited else contextlib.nullcontext()
    async with admitted:
        read = await _parse(large_bodies.one, gateway, request, body, info)
        options = options_of(read.parsed)
        await _check_allowed(gateway, request, options)
        queued = await _queue(gateway, request, options, read.inputs, id, named=own_id is not None)
    return Submitted(queued, options, read.parsed, read.rows)


async def many(
    gateway: Gateway, request: Request, info: ModelInfo, options_of: Callable[[ParsedBody], SubmitOptions]
) -> tuple[ParsedBody, list[str], list[Queued]]:
    """Parse many requests and queue them in one round trip, all of them or none.

    Returns:
        The parsed body, the ids as the caller knows them, and the jobs.

    Raises:
        InvalidRequest: the model does not take a request; or there are not as many ids as requests.
        IdTaken: an id belongs to a job with other content.
        WebhookRefused, TooLate, TooManyRequests: they may not be queued.
        QueueFull, BrokerUnavailable: they are not.
    """
    body = await request.raw(gateway.settings.max_request_bytes)
    await gateway.rate_limiter.charge(request.caller)
    read = await _parse(large_bodies.many, gateway, request, body, info)
    options, named, count = options_of(read.parsed), read.parsed.body.ids, request_data.count(range(read.requests))
    ids = [keyspace.job_id(id) for id in named] if named is not None else keyspace.new_ids(count)
    if len(ids) != count:
        text = f"{len(set(ids))} ids were given for {count} requests"
        raise errors.InvalidRequest(text, reason="ids and requests differ")
    await _check_allowed(gateway, request, options)
    qualified = [keyspace.qualified(id, request.caller.tenant) for id in ids]
    async with gateway.rate_limiter.admitted(request.caller, qualified, options.expires_s, charged=1):
        queued = await gateway.coalescer.many(options, read.bound, qualified)
    gateway.recent.keep(queued)
    return read.parsed, ids, queued


def accepted(view: JobView, status: int) -> Response:
    """Return a response with a job and its address."""
    return response.json(view, status).with_header(b"location", view.links.self)


async def _check_allowed(gateway: Gateway, request: Request, options: SubmitOptions) -> None:
    """Refuse a webhook that would not be called, a deadline that would pass before the job starts, and a key that was revoked
    while the body arrived.
    """
    gateway.authenticator.recheck(request.caller)
    if options.webhook:
        webhook_policy.check_url(options.webhook, gateway.settings.webhook_hosts)
    if options.expires_s is not None:
        await gateway.check_deadline(options.model, options.tenant, options.priority, options.expires_s)


async def _parse(work: Callable[..., T], gateway: Gateway, request: Request, body: bytes, info: ModelInfo) -> T:
    """Parse requests by the model's signature, or by that of another copy that a live worker serves under its name."""
    pool, limit = gateway.process_pool, gateway.settings.max_request_bytes
    try:
        return await large_bodies.parse(work, pool, request, body, info, limit)
    except errors.InvalidRequest:
        for other in info.variants:
            variant = msgspec.structs.replace(info, signature=other)
            with contextlib.suppress(errors.InvalidRequest):
                return await large_bodies.parse(work, pool, request, body, variant, limit)
        raise


async def _queue(
    gateway: Gateway,
    request: Request,
    options: SubmitOptions,
    inputs: large_bodies.Inputs,
    id: str,
    *,
    named: bool,
) -> Queued:
    large = coalescer.is_large(inputs)
    if not named and not large:
        return await gateway.coalescer.one(options, inputs, id)
    try:
        (queued,) = await gateway.coalescer.many(options, [inputs], [id], large=large)
    except errors.IdTaken as exc:
        if submit_options.IDEMPOTENCY not in request.headers:
            raise
        text = "this Idempotency-Key was sent before, with another request: take a new key for a new request"
        raise errors.KeyReused(text, id=id) from exc
    return queued
