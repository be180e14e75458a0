"""The Open Inference Protocol, version 2: `/v2`."""

from __future__ import annotations

import contextlib
from importlib.metadata import version as installed
from typing import Any

import msgspec

from mutirao import errors
from mutirao.client.encoding import SubmitOptions
from mutirao.gateway import submit
from mutirao.gateway.endpoint import endpoint
from mutirao.gateway.openapi.route_doc import Param, RouteDoc
from mutirao.gateway.requests import body_parsing, submit_options, v2_binary, v2_json
from mutirao.gateway.requests.request import ClientGone, Request
from mutirao.gateway.requests.v2_json import ParsedBody
from mutirao.gateway.responses import presenters, response, response_format, result_response
from mutirao.gateway.responses.response import Response
from mutirao.gateway.state.coalescer import Queued
from mutirao.gateway.state.gateway import Gateway
from mutirao.gateway.streams.long_poll import LongPoll
from mutirao.registry import ModelInfo
from mutirao.wire.http_schemas import InferBody, JobView
from mutirao.wire.messages import PredictResult
from mutirao.wire.signature import TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_repository", "schedule_policy")
# Of the body of an index call.
INDEX_BYTES = 4096
_TAG = "Open Inference Protocol"
_MODEL = "/v2/models/{model:str}"
_VERSION = _MODEL + "/versions/{version:str}"
_REPOSITORY = "/v2/repository/models/{model:str}"


class ServerMetadata(msgspec.Struct, frozen=True):
    """The server.

    Attributes:
        name: always mutirao.
        version: the package's.
        extensions: the extensions of the protocol that it supports.
    """

    name: str
    version: str
    extensions: tuple[str, ...]


class LiveReply(msgspec.Struct, frozen=True):
    """Whether the process runs."""

    live: bool


class ReadyReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the server, or one model, is ready.

    Attributes:
        ready: whether it is.
        name: of the model; absent for the server as a whole.
        reason: why not.
    """

    ready: bool
    name: str = ""
    reason: str = ""


class ModelMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's inputs and outputs; in a shape, the first size is the number of rows, and -1 stands for any size.

    Attributes:
        example: one row of input: each input's values in order, null for a missing one.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: dict[str, list[Any]] = {}


class Index(msgspec.Struct, frozen=True):
    """Which models of the repository to list.

    Attributes:
        ready: only the models that are ready.
    """

    ready: bool = False


class Indexed(msgspec.Struct, frozen=True):
    """A model of the repository."""

    name: str
    version: str
    state: str
    reason: str


async def infer(gateway: Gateway, request: Request, model: str, version: str = "") -> Response:
    """Run a model on a request, and return the result.

    The request is queued, and the answer is the job's result. Where the job has not ended when the wait's limit passes, 504 names the
    job's address; the job goes on. `Prefer: respond-async` answers 202 with that address at once. Where the client goes before that, a
    request that has not begun is cancelled, unless an id of its own or a webhook leads to its result.
    """
    request.caller.require("predict", model)
    info = await gateway.find(model, version)
    form = response_format.DEFAULT

    def options_of(parsed: ParsedBody) -> SubmitOptions:
        nonlocal form
        form = response_format.requested(request, parsed.body, bare=parsed.bare)
        return submit_options.from_request(request, info, parsed.body, text=form.text)

    preference = (
        submit_options.preference(request.every(b"prefer"))
        if b"prefer" in request.headers
        else submit_options.NO_PREFERENCE
    )
    if not info.workers and not preference.respond_async and request.param("queue") is None:
        text = f"no live worker serves {info.name!r} now: try again, or have it queued with ?queue=1 or Prefer: respond-async"
        raise errors.NoWorker(text, model=info.name, retry_after_s=5)
    queued, _, parsed, _ = await submit.one(gateway, request, info, options_of)
    limit = gateway.settings.gateway_wait_s
    wait_s = limit if preference.wait_s is None else min(limit, preference.wait_s)
    if preference.respond_async and not preference.wait_s:
        return (await _later(gateway, request, queued, preference)).with_warnings(parsed.notes)
    try:
        record = await LongPoll(request, wait_s, outlasts_stop=True).end(gateway, queued.job)
    except ClientGone:
        if submit_options.own_job_id(request) is None and not (parsed.body.webhook or request.param("webhook")):
            await _withdraw(gateway, request, queued.job.id)
        raise
    if record is None:
        if preference.respond_async:
            return (await _later(gateway, request, queued, preference)).with_warnings(parsed.notes)
        raise await gateway.redis.run(
            gateway.backend.timeout_error(await gateway.record(queued.job.id, request.caller.tenant), wait_s)
        )
    gateway.metrics.ended(record)
    gateway.rate_limiter.ended(request.caller, [record.task_id])
    if form.text and not queued.known and result_response.is_text(record):
        answer = result_response.passthrough(record, parsed.body.id)
    else:
        outputs = await gateway.redis.run(gateway.backend.outputs(record, as_text=True))
        answer = await result_response.encode(outputs, record, form, parsed.body.id)
    if preference.wait_s is not None:
        answer.with_header(b"preference-applied", preference.applied)
    return answer.with_warnings(parsed.notes)


infer_route = endpoint(
    "POST",
    _MODEL + "/infer",
    _VERSION + "/infer",
    doc=RouteDoc(
        tag=_TAG,
        params={
            **submit_options.PARAMS,
            **body_parsing.PARAMS,
            **response_format.NAN,
            "queue": Param("1 has the request queued though no live worker serves the model.", {"enum": ["1"]}),
            "Prefer": Param("RFC 7240: respond-async, wait=N, or both.", header=True),
            v2_binary.HEADER_LENGTH.decode().title(): Param(
                "V2's binary form: how many bytes of JSON stand before the raw tensors.",
                {"type": "integer", "minimum": 0},
                header=True,
            ),
        },
        body=InferBody,
        medias=body_parsing.MEDIAS,
        answer=PredictResult,
        forms=response_format.FORMS[1:],
        others={202: JobView},
        refusals=(400, 404, 406, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    ),
)(infer)


@endpoint("GET", "/v2", doc=RouteDoc(tag=_TAG, answer=ServerMetadata))
async def server(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001 - a handler's signature
    """Return the server's name, its version and the extensions of the protocol that it supports."""
    return response.json(ServerMetadata("mutirao", installed("mutirao"), EXTENSIONS))


@endpoint("GET", "/v2/health/live", doc=RouteDoc(tag=_TAG, answer=LiveReply))
async def live(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001
    """Return whether the process runs."""
    return response.json(LiveReply(live=True))


@endpoint("GET", "/v2/health/ready", doc=RouteDoc(tag=_TAG, answer=ReadyReply, refusals=(503,), answered=(503,)))
async def ready(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001
    """Return whether there is a model, and all models in the live workers' repositories are ready."""
    known = (await gateway.registry()).expected()
    missing = [name for name, info in known.items() if not _is_ready(info)]
    if gateway.stopping or not known or missing:
        return response.json(ReadyReply(ready=False, reason=await _why(gateway, missing)), 503)
    return response.json(ReadyReply(ready=True))


@endpoint(
    "GET",
    _MODEL + "/ready",
    _VERSION + "/ready",
    doc=RouteDoc(tag=_TAG, answer=ReadyReply, refusals=(400, 404, 503), answered=(503,)),
)
async def model_ready(gateway: Gateway, request: Request, model: str, version: str = "") -> Response:
    """Return whether a live worker has warmed the model up and takes its requests."""
    request.caller.require("read", model)
    await gateway.registry()
    try:
        info = gateway.model(model, version)
    except errors.ModelUnavailable as exc:
        return response.json(ReadyReply(ready=False, name=model, reason=str(exc)), 503)
    if not _is_ready(info):
        return response.json(ReadyReply(ready=False, name=model, reason="no live worker serves it"), 503)
    return response.json(ReadyReply(ready=True, name=model))


@endpoint("GET", _MODEL, _VERSION, doc=RouteDoc(tag=_TAG, answer=ModelMetadata, refusals=(400, 404, 503)))
async def metadata(gateway: Gateway, request: Request, model: str, version: str = "") -> Response:
    """Return a model's inputs and outputs, with an example."""
    request.caller.require("read", model)
    info = await gateway.find(model, version)
    takes = info.signature
    inputs, outputs = (
        tuple(TensorSpec(spec.name, spec.datatype, spec.shape) for spec in specs)
        for specs in (takes.inputs, takes.outputs)
    )
    return response.json(
        ModelMetadata(info.name, (info.version,), f"{info.runtime}_model", inputs, outputs, info.example)
    )


@endpoint("POST", "/v2/repository/index", doc=RouteDoc(tag=_TAG, body=Index, answer=list[Indexed], refusals=(400, 413)))
async def index(gateway: Gateway, request: Request) -> Response:
    """List the models that workers have announced, with their states."""
    query = v2_json.decode(await request.body(INDEX_BYTES, "it is an object with one field, ready") or b"{}", Index)
    known = await gateway.registry()
    infos = [info for info in known.models.values() if request.caller.may("read", info.name)]
    rows = [_indexed(info) for info in infos if _is_ready(info) or not query.ready]
    return response.json(sorted(rows, key=lambda row: row.name))


@endpoint(
    "POST",
    _REPOSITORY + "/load",
    _REPOSITORY + "/unload",
    doc=RouteDoc(tag=_TAG, refusals=(400, 403, 404, 501), status=501),
)
async def change(gateway: Gateway, request: Request, model: str) -> Response:
    """Refuse to load or unload: workers load what their repository holds (see mutirao models add)."""
    request.caller.require("operate", model)
    await gateway.find(model)
    text = f"models are not loaded or unloaded over HTTP: workers serve what their repository holds; to change {model!r}, use mutirao models add or remove"
    raise errors.NotSupported(text, model=model)


routes: list[Any] = [infer_route, server, live, ready, model_ready, metadata, index, change]


async def _later(gateway: Gateway, request: Request, queued: Queued, preference: submit_options.Preference) -> Response:
    """Return a 202 response with the job's address."""
    record = await gateway.record(queued.job.id, request.caller.tenant)
    return submit.accepted(presenters.job(record), 202).with_header(b"preference-applied", preference.applied)


async def _withdraw(gateway: Gateway, request: Request, id: str) -> None:
    """Cancel a job for which nobody waits and nobody can ask; where Redis is away, it runs, and its result expires."""
    with contextlib.suppress(errors.MutiraoError):
        (record,) = await gateway.redis.run(gateway.backend.cancel_or_expire([id], "revoked"))
        if record is not None and record.done:
            gateway.rate_limiter.ended(request.caller, [id])


def _is_ready(info: ModelInfo) -> bool:
    return info.state == "ready" and info.workers > 0


def _indexed(info: ModelInfo) -> Indexed:
    state = "READY" if _is_ready(info) else "UNAVAILABLE"
    reason = info.reason or ("" if info.workers else "no live worker serves it")
    return Indexed(info.name, info.version, state, reason)


async def _why(gateway: Gateway, missing: list[str]) -> str:
    """Say why the server is not ready; models are named only where nobody needs a key, since nobody shows one here."""
    if gateway.stopping:
        return "the gateway is stopping"
    if not missing:
        return "no worker has announced any model yet"
    return (
        f"not ready: {', '.join(missing) if await gateway.authenticator.is_open() else f'{len(missing)} of the models'}"
    )
