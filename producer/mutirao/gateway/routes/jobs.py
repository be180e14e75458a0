"""Jobs: `/v1/models/{m}/jobs` queues them, `/v1/jobs/{id}` tells of them, waits for them, and ends them."""

from __future__ import annotations

from typing import Any

from mutirao import errors, keyspace, queue_stats
from mutirao.api_keys import Verb
from mutirao.client.encoding import SubmitOptions
from mutirao.client.job import JobHandle
from mutirao.client.redis_backend import READ_MAX
from mutirao.gateway import submit
from mutirao.gateway.endpoint import endpoint
from mutirao.gateway.openapi.route_doc import Param, RouteDoc
from mutirao.gateway.requests import body_parsing, submit_options, v2_json
from mutirao.gateway.requests.request import Request
from mutirao.gateway.responses import presenters, response, response_format, result_response
from mutirao.gateway.responses.presenters import Await, Jobs, SubmitManyReply
from mutirao.gateway.responses.response import Response
from mutirao.gateway.state.gateway import Gateway
from mutirao.gateway.streams import job_stream, long_poll
from mutirao.gateway.streams.long_poll import LongPoll
from mutirao.wire.http_schemas import InferBody, JobView
from mutirao.wire.messages import JobInfo, JobRecord, PredictResult

# The longest time for which one call waits.
WAIT_MAX_S = 60.0
# Of the body that names the jobs: as many of the longest ids as one call may have.
_WAIT_BYTES = 256 * READ_MAX
_TAG = "Jobs"
_JOB = "/v1/jobs/{id:str}"
_WAIT = Param(
    f"Wait for the end, so many seconds at most; more than {WAIT_MAX_S:g} count as {WAIT_MAX_S:g}.",
    {"type": "number", "minimum": 0},
)
_ID = Param("An id of your own: the same id with the same request is the same job.")
_SUBMIT = {**submit_options.PARAMS, "id": _ID, "webhook": Param("The URL to which the job is sent when it has ended.")}


@endpoint(
    "POST",
    "/v1/models/{model:str}/jobs",
    doc=RouteDoc(
        tag=_TAG,
        params=_SUBMIT,
        body=InferBody,
        medias=body_parsing.MEDIAS,
        status=202,
        answer=JobView,
        others={200: JobView},
        refusals=(400, 404, 408, 409, 413, 415, 422, 429, 503),
    ),
)
async def create(gateway: Gateway, request: Request, model: str) -> Response:
    """Queue a request, and return its job.

    202 for a job that has not ended; 200 for one that has, where the same id or Idempotency-Key was sent before.
    """
    request.caller.require("predict", model)
    info = await gateway.find(model)
    queued, options, parsed, rows = await submit.one(
        gateway, request, info, lambda parsed: submit_options.from_request(request, info, parsed.body)
    )
    record = (
        await gateway.record(queued.job.id, request.caller.tenant)
        if queued.known
        else _just_queued(gateway, options, queued.job.id, rows)
    )
    return submit.accepted(presenters.job(record), 200 if record.done else 202).with_warnings(parsed.notes)


@endpoint(
    "POST",
    "/v1/models/{model:str}/jobs:batch",
    doc=RouteDoc(
        tag=_TAG,
        params={key: value for key, value in _SUBMIT.items() if key not in ("id", "Idempotency-Key")},
        body=InferBody,
        medias=body_parsing.MEDIAS,
        status=202,
        answer=SubmitManyReply,
        refusals=(400, 404, 408, 409, 413, 415, 429, 503),
    ),
)
async def create_many(gateway: Gateway, request: Request, model: str) -> Response:
    """Queue many requests in one round trip to Redis: all of them, or none.

    Either `requests`, each with its `inputs` or `rows`; or one body in any form, each of whose rows is a request.
    """
    request.caller.require("predict", model)
    info = await gateway.find(model)
    parsed, ids, queued = await submit.many(
        gateway, request, info, lambda parsed: submit_options.from_request(request, info, parsed.body)
    )
    known = tuple(at for at, one in enumerate(queued) if one.known)
    return response.json(SubmitManyReply(ids=tuple(ids), known=known), 202).with_warnings(parsed.notes)


@endpoint("GET", _JOB, doc=RouteDoc(tag=_TAG, params={"wait": _WAIT}, answer=JobView, refusals=(400, 404, 410, 503)))
async def show(gateway: Gateway, request: Request, id: str) -> Response:
    """Return a job's record: at once, or with `?wait=` when it has ended or the time is up."""
    record = await _wait_for_end(gateway, request, await _own(gateway, request, id))
    return response.json(await _with_position(gateway, record))


@endpoint(
    "GET",
    _JOB + "/result",
    doc=RouteDoc(
        tag=_TAG,
        params={"wait": _WAIT, **response_format.NAN},
        answer=PredictResult,
        forms=response_format.FORMS[1:],
        refusals=(400, 404, 406, 409, 410, 413, 500, 503, 504),
    ),
)
async def result(gateway: Gateway, request: Request, id: str) -> Response:
    """Return a job's result: V2 in JSON or with raw tensors, CSV or npy, by Accept; 409 while there is none yet.

    A job that ended without a result answers with its error.
    """
    form = response_format.ResponseFormat(
        response_format.accepted(request.headers.get(b"accept")), null=response_format.nan_as_null(request)
    )
    record = await _wait_for_end(gateway, request, await _own(gateway, request, id))
    if not record.done:
        text = f"job {id!r} is {record.state}: it has no result yet; try again, or wait with ?wait=20"
        raise errors.JobNotFinished(text, id=id, state=record.state)
    return await result_response.encode(
        await gateway.redis.run(gateway.backend.outputs(record, as_text=True)), record, form
    )


@endpoint("DELETE", _JOB, doc=RouteDoc(tag=_TAG, answer=JobView, refusals=(400, 404, 409, 410, 503)))
async def cancel(gateway: Gateway, request: Request, id: str) -> Response:
    """Cancel a job that still waits; 409 where it runs or has ended."""
    known = (await _own(gateway, request, id, "cancel")).task_id
    (record,) = await gateway.redis.run(gateway.backend.cancel_or_expire([known], "revoked"))
    if record is None:
        raise gateway.backend.not_found_error(known)
    if record.state != "cancelled":
        text = f"job {id!r} is {record.state}: only a job that waits can be cancelled"
        raise errors.NotCancellable(text, id=id, state=record.state)
    gateway.rate_limiter.ended(request.caller, [known])
    return response.json(presenters.job(record))


@endpoint(
    "GET",
    _JOB + "/events",
    doc=RouteDoc(
        tag=_TAG,
        params={"Last-Event-ID": Param("The last event that was seen: only later ones are sent.", header=True)},
        forms=(response.EVENTS,),
        others={204: None},
        refusals=(400, 404, 410, 503),
    ),
)
async def stream(gateway: Gateway, request: Request, id: str) -> Response:
    """Send an event for each step of a job, until it has ended (server-sent events).

    204 where it has ended and the last event was seen: a browser's EventSource stops asking then.
    """
    record = await _own(gateway, request, id)
    return job_stream.answer(gateway, request.caller, record, request.header(b"last-event-id"))


@endpoint("POST", "/v1/jobs:wait", doc=RouteDoc(tag=_TAG, body=Await, answer=Jobs, refusals=(400, 413, 503)))
async def wait(gateway: Gateway, request: Request) -> Response:
    """Wait for any of many jobs, and return all that have ended: at least one, unless the time is up."""
    body = v2_json.decode(await request.body(_WAIT_BYTES, "send the ids in several requests"), Await)
    if len(body.ids) > READ_MAX:
        raise errors.InvalidRequest(
            f"{len(body.ids)} ids, the limit is {READ_MAX}: send them in several requests", reason="too many ids"
        )
    ids = list(dict.fromkeys(_qualified(request, id) for id in body.ids))
    return response.json(
        await long_poll.wait_for_any(gateway, request, ids, min(body.wait, WAIT_MAX_S), results=body.results)
    )


routes: list[Any] = [create, create_many, show, result, cancel, stream, wait]


def _just_queued(gateway: Gateway, options: SubmitOptions, id: str, rows: int) -> JobRecord:
    """Return the record of a job that was queued this moment, without reading it."""
    now = gateway.backend.now()
    wait_s = gateway.settings.expires_s if options.expires_s is None else options.expires_s
    job = JobInfo(
        model=options.model,
        rows=rows,
        priority=options.priority,
        queued_at=now,
        expires_at=now + wait_s,
        owner=options.tenant,
    )
    return JobRecord(status="QUEUED", task_id=id, job=job)


async def _own(gateway: Gateway, request: Request, id: str, verb: Verb = "read") -> JobRecord:
    """Read a job for its owner, who must have the scope of its model; to all others there is no such job."""
    record = await gateway.record(_qualified(request, id), request.caller.tenant)
    request.caller.require(verb, record.job.model)
    return record


def _qualified(request: Request, id: str) -> str:
    """Return the id under which Redis keeps a job of the caller's."""
    return keyspace.qualified(keyspace.job_id(id), request.caller.tenant)


async def _wait_for_end(gateway: Gateway, request: Request, record: JobRecord) -> JobRecord:
    """Wait for a job's end as long as the query says."""
    wait_s = _wait_s(request)
    if record.done or not wait_s:
        return record
    await request.body(0)
    id = record.task_id
    ended = await LongPoll(request, wait_s).end(gateway, JobHandle(id))
    if ended is not None:
        gateway.recent.forget([id])
        gateway.rate_limiter.ended(request.caller, [id])
    return ended or await gateway.record(id, request.caller.tenant)


def _wait_s(request: Request) -> float:
    text = request.param("wait")
    if text is None:
        return 0.0
    wait_s = submit_options.number(text)
    if not 0 <= wait_s <= 1e9:
        raise errors.InvalidRequest(f"wait is {text[:40]!r}: it must be a number of seconds", reason="wait not allowed")
    return min(wait_s, WAIT_MAX_S)


async def _with_position(gateway: Gateway, record: JobRecord) -> JobView:
    """Show a job, and its place in the queue while it waits."""
    if record.status != "QUEUED":
        return presenters.job(record)
    return presenters.job(record, await gateway.redis.run(queue_stats.position(gateway.backend, record)))
