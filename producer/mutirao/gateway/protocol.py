"""The Open Inference Protocol, version 2: `/v2`."""

from __future__ import annotations

import contextlib
from importlib.metadata import version as installed
from typing import Any

import msgspec

from mutirao import errors
from mutirao.catalog import ModelInfo
from mutirao.gateway import answers, asking, bodies, prefer, results, submit, views
from mutirao.gateway.answers import Answer
from mutirao.gateway.bodies import Body, Given
from mutirao.gateway.call import Call, ClientGone
from mutirao.gateway.front import Front
from mutirao.gateway.routes import Doc, Param, endpoint
from mutirao.gateway.waiting import Waiting
from mutirao.messages import PredictResult
from mutirao.signature import TensorSpec
from mutirao.submission import Ask

EXTENSIONS = ("binary_tensor_data", "model_repository", "schedule_policy")
# Of the body of an index call.
INDEX_BYTES = 4096
_TAG = "Open Inference Protocol"
_MODEL = "/v2/models/{model:str}"
_VERSION = _MODEL + "/versions/{version:str}"


class Server(msgspec.Struct, frozen=True):
    """The server.

    Attributes:
        name: always mutirao.
        version: the package's.
        extensions: of the protocol, those that are spoken here.
    """

    name: str
    version: str
    extensions: tuple[str, ...]


class Live(msgspec.Struct, frozen=True):
    """Whether the process runs."""

    live: bool


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether all models can answer now.

    Attributes:
        ready: whether it can.
        name: of the model; absent for the server as a whole.
        reason: why not.
    """

    ready: bool
    name: str = ""
    reason: str = ""


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model, and what it takes and gives; -1 stands for any size, the first is the rows.

    Attributes:
        example: a row that it takes: each input's values in order, null for one that is missing.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: dict[str, list[Any]] = {}


class Index(msgspec.Struct, frozen=True):
    """What of the repository is asked for.

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


async def infer(front: Front, call: Call, model: str, version: str = "") -> Answer:
    """Ask a model and wait for its answer.

    The request is queued, and the answer is the job's result. Where the job has not ended when the wait's limit passes, 504 names the
    job's address; the job goes on. `Prefer: respond-async` answers 202 with that address at once. Where the client goes before that, a
    request that has not begun is cancelled, unless an id of its own or a webhook leads to its result.
    """
    call.caller.require("predict", model)
    info = await front.known(model, version)
    wanted = results.PLAIN

    def asked(given: Given) -> Ask:
        nonlocal wanted
        wanted = asking.form(call, given.body, bare=given.bare)
        return asking.ask(call, info, given.body, text=wanted.text)

    preferred = prefer.read(call.every(b"prefer")) if b"prefer" in call.headers else prefer.NONE
    if not info.workers and not preferred.respond_async and call.param("queue") is None:
        front.served(info)
    queued, _, given, _ = await submit.one(front, call, info, asked)
    limit = front.settings.gateway_wait_s
    wait_s = limit if preferred.wait_s is None else min(limit, preferred.wait_s)
    if preferred.respond_async and not preferred.wait_s:
        return given.noted(await _later(front, call, queued, preferred))
    try:
        record = await Waiting(call, wait_s, patient=True).end(front, queued.job)
    except ClientGone:
        if asking.own_id(call) is None and not (given.body.webhook or call.param("webhook")):
            await _withdraw(front, call, queued.job.id)
        raise
    if record is None:
        if preferred.respond_async:
            return given.noted(await _later(front, call, queued, preferred))
        raise await front.redis.run(front.core.late(await front.record(queued.job.id, call.caller.tenant), wait_s))
    front.meters.ended(record)
    front.limiter.ended(call.caller, [record.task_id])
    if wanted.text and not queued.known and results.is_text(record):
        made = results.passed(record, given.body.id)
    else:
        outputs = await front.redis.run(front.core.outputs(record))
        made = await results.written(outputs, record, wanted, given.body.id)
    made = given.noted(made) if given.notes else made
    return made.with_header(b"preference-applied", preferred.applied) if preferred.wait_s is not None else made


_INFER = Doc(
    tag=_TAG,
    params={
        **asking.PARAMS,
        **bodies.PARAMS,
        **results.NAN,
        "queue": Param("1 has the request queued though no live worker serves the model.", {"enum": ["1"]}),
        "Prefer": Param("RFC 7240: respond-async, wait=N, or both.", header=True),
        bodies.HEADER_LENGTH.decode().title(): Param(
            "V2's binary form: how many bytes of JSON stand before the raw tensors.",
            {"type": "integer", "minimum": 0},
            header=True,
        ),
    },
    body=Body,
    medias=bodies.MEDIAS,
    answer=PredictResult,
    forms=results.FORMS[1:],
    others={202: views.JobView},
    refusals=(400, 404, 406, 408, 409, 413, 415, 422, 429, 500, 503, 504),
)
infer_route = endpoint("POST", _MODEL + "/infer", _INFER)(infer)
infer_version_route = endpoint("POST", _VERSION + "/infer", _INFER)(infer)


@endpoint("GET", "/v2", Doc(tag=_TAG, answer=Server))
async def server(front: Front, call: Call) -> Answer:  # noqa: ARG001 - a handler's signature
    """Tell which server this is, and which extensions of the protocol it speaks."""
    return answers.json(Server("mutirao", installed("mutirao"), EXTENSIONS))


@endpoint("GET", "/v2/health/live", Doc(tag=_TAG, answer=Live))
async def live(front: Front, call: Call) -> Answer:  # noqa: ARG001
    """Tell that the process runs."""
    return answers.json(Live(live=True))


@endpoint("GET", "/v2/health/ready", Doc(tag=_TAG, answer=Ready, refusals=(503,), answered=(503,)))
async def ready(front: Front, call: Call) -> Answer:  # noqa: ARG001
    """Tell whether every model that live workers have in their repositories is ready, and there is one."""
    known = (await front.catalog()).expected()
    missing = [name for name, info in known.items() if not _is_ready(info)]
    if front.stopping or not known or missing:
        return answers.json(Ready(ready=False, reason=await _why(front, missing)), 503)
    return answers.json(Ready(ready=True))


async def model_ready(front: Front, call: Call, model: str, version: str = "") -> Answer:
    """Tell whether a live worker has warmed the model up and takes its requests."""
    call.caller.require("read", model)
    await front.catalog()
    try:
        info = front.model(model, version)
    except errors.ModelUnavailable as exc:
        return answers.json(Ready(ready=False, name=model, reason=str(exc)), 503)
    if not _is_ready(info):
        return answers.json(Ready(ready=False, name=model, reason="no live worker serves it"), 503)
    return answers.json(Ready(ready=True, name=model))


_READY = Doc(tag=_TAG, answer=Ready, refusals=(400, 404, 503), answered=(503,))
model_ready_route = endpoint("GET", _MODEL + "/ready", _READY)(model_ready)
model_version_ready_route = endpoint("GET", _VERSION + "/ready", _READY)(model_ready)


async def metadata(front: Front, call: Call, model: str, version: str = "") -> Answer:
    """Tell what a model takes and gives."""
    call.caller.require("read", model)
    info = await front.find(model, version)
    takes = info.signature
    inputs, outputs = (
        tuple(TensorSpec(spec.name, spec.datatype, spec.shape) for spec in specs)
        for specs in (takes.inputs, takes.outputs)
    )
    return answers.json(Model(info.name, (info.version,), f"{info.runtime}_model", inputs, outputs, info.example))


_METADATA = Doc(tag=_TAG, answer=Model, refusals=(400, 404, 503))
metadata_route = endpoint("GET", _MODEL, _METADATA)(metadata)
metadata_version_route = endpoint("GET", _VERSION, _METADATA)(metadata)


@endpoint("POST", "/v2/repository/index", Doc(tag=_TAG, body=Index, answer=list[Indexed], refusals=(400, 413)))
async def index(front: Front, call: Call) -> Answer:
    """List the models that workers have announced, with their states."""
    asked = bodies.decode(await call.body(INDEX_BYTES, "it is an object with one field, ready") or b"{}", Index)
    known = await front.catalog()
    infos = [info for info in known.models.values() if call.caller.may("read", info.name)]
    rows = [_indexed(info) for info in infos if _is_ready(info) or not asked.ready]
    return answers.json(sorted(rows, key=lambda row: row.name))


async def change(front: Front, call: Call, model: str) -> Answer:
    """Refuse to load or unload: workers load what their repository holds (see mutirao models add)."""
    call.caller.require("operate", model)
    await front.find(model)
    text = f"models are not loaded or unloaded over HTTP: workers serve what their repository holds; to change {model!r}, use mutirao models add or remove"
    raise errors.NotSupported(text, model=model)


_CHANGE = Doc(tag=_TAG, refusals=(400, 403, 404, 501), status=501)
load_route = endpoint("POST", "/v2/repository/models/{model:str}/load", _CHANGE)(change)
unload_route = endpoint("POST", "/v2/repository/models/{model:str}/unload", _CHANGE)(change)

routes: list[Any] = [
    infer_route,
    infer_version_route,
    server,
    live,
    ready,
    model_ready_route,
    model_version_ready_route,
    metadata_route,
    metadata_version_route,
    index,
    load_route,
    unload_route,
]


async def _later(front: Front, call: Call, queued: submit.Queued, preferred: prefer.Preference) -> Answer:
    """Answer 202 with the job's address."""
    record = await front.record(queued.job.id, call.caller.tenant)
    made = submit.accepted(views.job(record), 202)
    return made.with_header(b"preference-applied", preferred.applied)


async def _withdraw(front: Front, call: Call, id: str) -> None:
    """Cancel what nobody waits for any more and nobody can ask for; where Redis is away, it is answered to nobody."""
    with contextlib.suppress(errors.MutiraoError):
        (record,) = await front.redis.run(front.core.settle([id], "revoked"))
        if record is not None and record.done:
            front.limiter.ended(call.caller, [id])


def _is_ready(info: ModelInfo) -> bool:
    return info.state == "ready" and info.workers > 0


def _indexed(info: ModelInfo) -> Indexed:
    state = "READY" if _is_ready(info) else "UNAVAILABLE"
    reason = info.reason or ("" if info.workers else "no live worker serves it")
    return Indexed(info.name, info.version, state, reason)


async def _why(front: Front, missing: list[str]) -> str:
    """Say why the server is not ready; models are named only where nobody needs a key, since nobody shows one here."""
    if front.stopping:
        return "the gateway is stopping"
    if not missing:
        return "no worker has announced any model yet"
    return f"not ready: {', '.join(missing) if await front.doorkeeper.is_open() else f'{len(missing)} of the models'}"
