"""The HTTP backend: the operations of clients through a gateway."""

from __future__ import annotations

import time
from collections.abc import Sequence
from urllib.parse import quote, urlencode

import msgspec

from mutirao import errors, keyspace
from mutirao.client.backend import Backend
from mutirao.client.encoding import SubmitOptions
from mutirao.client.http_backend import submit_body
from mutirao.client.http_backend.http_call import BINARY, HEADER_LENGTH, JSON, HttpCall, Operation, T, unavailable
from mutirao.client.http_backend.job_view import JobBody, JobEndings
from mutirao.client.request_data import ValidatedRequests
from mutirao.client.waiter import Completions
from mutirao.registry import ModelInfo, Registry, WorkerInfo
from mutirao.wire import binary_codec, json_elements
from mutirao.wire.messages import JobRecord, PredictResult
from mutirao.wire.tensors import Array


class _Models(msgspec.Struct, frozen=True):
    models: tuple[ModelInfo, ...]


class _Fleet(msgspec.Struct, frozen=True):
    workers: tuple[WorkerInfo, ...] | None = None


class HttpBackend(Backend):
    """The operations of clients through a gateway."""

    client = ""

    def _send(self, options: SubmitOptions, requests: ValidatedRequests, ids: list[str]) -> Operation[frozenset[int]]:
        body, json_length = submit_body.encode(options, requests, ids, self.settings.max_request_bytes)
        query = urlencode({"priority": options.priority, "expires_s": repr(self._expires_s(options))})
        path = f"/v1/models/{quote(options.model, safe='')}/jobs:batch?{query}"
        headers = {"content-type": BINARY, HEADER_LENGTH: str(json_length)}
        yield HttpCall("POST", path, body, headers, wait_s=len(ids) * QUEUED_EACH_S)
        return frozenset()

    def record(self, id: str) -> Operation[JobRecord]:
        """Read a job's record; see `Backend.record`."""
        reply = yield HttpCall("GET", _job(id))
        return self._read(reply.body, JobBody).record()

    def ends(self, ids: Sequence[str], wait_s: float) -> Operation[Completions]:
        """Read how those of the jobs ended that have; wait until at least one has, or the time has passed.

        Args:
            ids: of the jobs.
            wait_s: the longest wait, in seconds.
        """
        body = msgspec.json.encode({"ids": ids, "wait": wait_s, "results": True})
        reply = yield HttpCall("POST", "/v1/jobs:wait", body=body, headers=_JSON, wait_s=wait_s, polls=True)
        endings = self._read(reply.body, JobEndings)
        completions: Completions = [(view.id, view.record()) for view in endings.jobs]
        for id in endings.missing:
            try:
                record = yield from self.record(id)
            except errors.JobNotFound as exc:  # says which of the reasons it is
                completions.append((id, exc))
            else:
                completions += [(id, record)] if record.done else []
        return completions

    def cancel(self, id: str) -> Operation[bool]:
        """Cancel a job if it still waits; see `Backend.cancel`."""
        try:
            yield HttpCall("DELETE", _job(id))
        except errors.NotCancellable:
            return False
        return True

    def outputs(self, record: JobRecord) -> Operation[dict[str, Array]]:
        """Read a finished job's outputs; see `Backend.outputs`."""
        if record.status != "SUCCESS":
            raise record.error()
        result = record.result
        inline = binary_codec.inline_outputs(result)
        if inline is not None:
            return inline
        if bytes(result) == b"null":
            reply = yield HttpCall("GET", f"{_job(record.task_id)}/result", headers={"accept": BINARY})
            json_length = int(reply.headers.get(HEADER_LENGTH.lower(), len(reply.body)))
            return _decoded(self._read(reply.body[:json_length], PredictResult), reply.body[json_length:])
        return _decoded(record.response(), None)

    def catalog(self) -> Operation[Registry]:
        """Read which models are served and which workers live; workers are shown to those keys alone that may see them."""
        started_at = time.monotonic()
        registry = yield from self.read_models()
        try:
            reply = yield HttpCall("GET", "/v1/fleet")
        except errors.Forbidden:
            return registry
        workers = self._read(reply.body, _Fleet).workers or ()
        return self._keep_copy(msgspec.structs.replace(registry, workers=workers), started_at)

    def read_models(self) -> Operation[Registry]:
        """Read which models are served, and by how many workers."""
        started_at = time.monotonic()
        reply = yield HttpCall("GET", "/v1/models")
        models = self._read(reply.body, _Models).models
        return self._keep_copy(Registry(models={info.name: info for info in models}, workers=()), started_at)

    def _read(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            reason = f"its answer is not one that this version reads ({exc})"
            raise unavailable(self.settings.broker_url, reason, "does the URL name a gateway?") from exc


# How long a gateway may take for each request of a submit, in addition to the time-out of any call.
QUEUED_EACH_S = 0.0003
_JSON = {"content-type": JSON}


def _job(id: str) -> str:
    return f"/v1/jobs/{quote(keyspace.job_id(id), safe='')}"


def _decoded(result: PredictResult, raw: bytes | None) -> dict[str, Array]:
    return {
        tensor.name: json_elements.decode_output(tensor) for tensor in binary_codec.unpack_result(result, raw).outputs
    }
