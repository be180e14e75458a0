"""From a body to a queued job, with all that may be refused before."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import msgspec

from mutirao import errors, queues, submission, webhook
from mutirao.catalog import ModelInfo
from mutirao.gateway import answers, asking, intake, reading
from mutirao.gateway.answers import Answer
from mutirao.gateway.bodies import Body, Given
from mutirao.gateway.call import Call
from mutirao.gateway.front import Front
from mutirao.gateway.intake import Queued
from mutirao.gateway.views import JobView
from mutirao.submission import Ask

__all__ = ["Queued", "Sent", "accepted", "many", "one"]

_NOTHING = Body()
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
    ask: Ask
    given: Given
    rows: int


async def one(front: Front, call: Call, info: ModelInfo, asked: Callable[[Given], Ask]) -> Sent:
    """Read one request and queue it: with others that arrive at the same time, or alone where it has an id of its own.

    Its key is charged for it before it is parsed: a body that is refused costs too.

    Args:
        front: the gateway.
        call: the request.
        info: the model.
        asked: finds out what is asked for, once the body is read.

    Raises:
        InvalidRequest: it is none that the model takes.
        KeyReused: its Idempotency-Key was sent before, with another request.
        IdTaken: its own id belongs to a job with other content.
        WebhookRefused, TooLate, TooManyRequests: it may not be queued.
        QueueFull, BrokerUnavailable: it is not.
    """
    body = await call.raw(front.settings.max_request_bytes)
    own = asking.own_id(call)
    id = own or queues.qualified(queues.new_id(), call.caller.tenant)
    if call.caller.limits is None:
        return await _one(front, call, info, asked, body, id, named=own is not None)
    async with front.limiter.admitted(call.caller, [id], asking.expires_s(call, _NOTHING)):
        return await _one(front, call, info, asked, body, id, named=own is not None)


async def many(
    front: Front, call: Call, info: ModelInfo, asked: Callable[[Given], Ask]
) -> tuple[Given, list[str], list[Queued]]:
    """Read many requests and queue them in one round trip, all of them or none.

    Returns:
        What stood around them, their ids as the caller knows them, and their jobs.

    Raises:
        InvalidRequest: a request is none that the model takes; or other ids than requests.
        IdTaken: an id belongs to a job with other content.
        WebhookRefused, TooLate, TooManyRequests: they may not be queued.
        QueueFull, BrokerUnavailable: they are not.
    """
    body = await call.raw(front.settings.max_request_bytes)
    await front.limiter.charge(call.caller)
    read = await _read(reading.many, front, call, body, info)
    ask, given, count = asked(read.given), read.given.body.ids, submission.count(range(read.requests))
    ids = [queues.job_id(id) for id in given] if given is not None else queues.new_ids(count)
    if len(ids) != count:
        text = f"{len(set(ids))} ids were given for {count} requests"
        raise errors.InvalidRequest(text, reason="ids and requests differ")
    await _allowed(front, call, ask)
    qualified = [queues.qualified(id, call.caller.tenant) for id in ids]
    async with front.limiter.admitted(call.caller, qualified, ask.expires_s, charged=1):
        made = await front.intake.many(ask, read.bound, qualified)
    front.own.keep(made)
    return read.given, ids, made


def accepted(view: JobView, status: int) -> Answer:
    """Answer with a job and its address."""
    return answers.json(view, status).with_header(b"location", view.links.self)


async def _allowed(front: Front, call: Call, ask: Ask) -> None:
    """Refuse what would come to nothing, a webhook that nobody would call, a deadline that will have passed; and what is nobody's
    any more: the key may have been revoked while the body came.
    """
    front.doorkeeper.recheck(call.caller)
    if ask.webhook:
        webhook.check(ask.webhook, front.settings.webhook_hosts)
    if ask.expires_s is not None:
        await front.late(ask.model, ask.tenant, ask.priority, ask.expires_s)


async def _one(
    front: Front, call: Call, info: ModelInfo, asked: Callable[[Given], Ask], body: bytes, id: str, *, named: bool
) -> Sent:
    read = await _read(reading.one, front, call, body, info)
    ask = asked(read.given)
    await _allowed(front, call, ask)
    if named:
        queued = await _named(front, call, ask, read.inputs, id)
    elif intake.is_large(read.inputs):
        (queued,) = await front.intake.many(ask, [read.inputs], [id], large=True)
    else:
        queued = await front.intake.one(ask, read.inputs, id)
    return Sent(queued, ask, read.given, read.rows)


async def _read(read: Callable[..., Awaitable[T]], front: Front, call: Call, body: bytes, info: ModelInfo) -> T:
    """Read requests by the signature that is shown, or by that of another copy which a live worker serves."""
    limit = front.settings.max_request_bytes
    try:
        return await read(front.apart, call, body, info, limit)
    except errors.InvalidRequest:
        for other in info.variants:
            with contextlib.suppress(errors.InvalidRequest):
                return await read(front.apart, call, body, msgspec.structs.replace(info, signature=other), limit)
        raise


async def _named(front: Front, call: Call, ask: Ask, inputs: reading.Inputs, id: str) -> Queued:
    try:
        (queued,) = await front.intake.many(ask, [inputs], [id], large=intake.is_large(inputs))
    except errors.IdTaken as exc:
        if asking.IDEMPOTENCY not in call.headers:
            raise
        text = "this Idempotency-Key was sent before, with another request: take a new key for a new request"
        raise errors.KeyReused(text, id=id) from exc
    return queued
