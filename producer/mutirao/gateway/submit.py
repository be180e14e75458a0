"""From checked arrays to a queued job, with all that may be refused before."""

from __future__ import annotations

from collections.abc import Sequence

from mutirao import errors, queues, webhook
from mutirao.gateway import answers, asking
from mutirao.gateway.answers import Answer
from mutirao.gateway.call import Call
from mutirao.gateway.front import Front
from mutirao.gateway.intake import Queued
from mutirao.gateway.views import JobView
from mutirao.submission import Ask, Bound
from mutirao.tensors import Array

__all__ = ["Queued", "accepted", "many", "one"]


async def one(front: Front, call: Call, ask: Ask, arrays: dict[str, Array]) -> Queued:
    """Queue one request: with others that arrive at the same time, or alone where it has an id of its own.

    Raises:
        KeyReused: its Idempotency-Key was sent before, with another request.
        IdTaken: its own id belongs to a job with other content.
        WebhookRefused, TooLate, TooManyRequests: it may not be queued.
        QueueFull, BrokerUnavailable: it is not.
    """
    await _allowed(front, call, ask)
    id = asking.own_id(call)
    if id is not None:
        return await _named(front, call, ask, arrays, id)
    id = queues.qualified(queues.new_id(), call.caller.tenant)
    if call.caller.limits is None:
        return await front.intake.one(ask, arrays, id)
    async with front.limiter.admitted(call.caller, [id], ask.expires_s):
        return await front.intake.one(ask, arrays, id)


async def many(front: Front, call: Call, ask: Ask, bound: Bound, ids: Sequence[str]) -> list[Queued]:
    """Queue many requests in one round trip, all of them or none.

    Raises:
        IdTaken: an id belongs to a job with other content.
        WebhookRefused, TooLate, TooManyRequests: they may not be queued.
        QueueFull, BrokerUnavailable: they are not.
    """
    await _allowed(front, call, ask)
    async with front.limiter.admitted(call.caller, ids, ask.expires_s):
        made = await front.intake.many(ask, bound, ids)
    front.own.keep(made)
    return made


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
        await front.late(ask.model, ask.tenant, ask.expires_s)


async def _named(front: Front, call: Call, ask: Ask, arrays: dict[str, Array], id: str) -> Queued:
    try:
        async with front.limiter.admitted(call.caller, [id], ask.expires_s):
            (queued,) = await front.intake.many(ask, [arrays], [id])
    except errors.IdTaken as exc:
        if asking.IDEMPOTENCY not in call.headers:
            raise
        text = "this Idempotency-Key was sent before, with another request: take a new key for a new request"
        raise errors.KeyReused(text, id=id) from exc
    return queued
