"""From checked arrays to a queued job, with all that may be refused before."""

from __future__ import annotations

from collections.abc import Sequence

from mutirao import errors
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
        QueueFull, BrokerUnavailable: it is not queued.
    """
    if asking.IDEMPOTENCY not in call.headers and not call.scope["query_string"]:
        return await front.intake.one(ask, arrays)
    id = asking.own_id(call)
    if id is None:
        return await front.intake.one(ask, arrays)
    try:
        (queued,) = await front.intake.many(ask, [arrays], [id])
    except errors.IdTaken as exc:
        if asking.IDEMPOTENCY not in call.headers:
            raise
        text = "this Idempotency-Key was sent before, with another request: take a new key for a new request"
        raise errors.KeyReused(text, id=id) from exc
    return queued


async def many(front: Front, call: Call, ask: Ask, bound: Bound, ids: Sequence[str]) -> list[Queued]:
    """Queue many requests in one round trip, all of them or none.

    Raises:
        IdTaken: an id belongs to a job with other content.
        QueueFull, BrokerUnavailable: nothing is queued.
    """
    return await front.intake.many(ask, bound, ids)


def accepted(view: JobView, status: int) -> Answer:
    """Answer with a job and its address."""
    return answers.json(view, status).with_header(b"location", view.links.self)
