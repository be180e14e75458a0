"""Results: Celery's Redis backend, with one script for what must be one step."""

from __future__ import annotations

import datetime
import math
from importlib.resources import files
from typing import Any

import msgspec
from celery import states
from celery.backends.redis import RedisBackend

from mutirao import codec, errors, queues
from mutirao.messages import PredictResult


class ResultBackend(RedisBackend):  # type: ignore[misc]  # Celery has no types
    """Keeps Celery's documents under Celery's keys, where a stock client finds them. A job ends once: the first end wins."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what Celery gives every backend."""
        super().__init__(*args, **kwargs)
        self._inline_bytes = self.app.conf.mutirao.inline_bytes
        self._scripts: dict[str, Any] = {}

    def begin(self, id: str, worker: str) -> bool:
        """Mark a job as started; False where it has already ended and must not run."""
        now = datetime.datetime.now(datetime.UTC).isoformat()
        return bool(
            self._retried(
                "begin", [queues.record_key(id), queues.payload_key(id, "in")], [id, worker, self._kept_s(), now]
            )
        )

    def payload(self, id: str) -> bytes:
        """Read the tensors that are kept beside a request.

        Raises:
            InvalidRequest: they are gone.
        """
        raw = self._ensure_retryable(self.client.get, queues.payload_key(id, "in"))
        if raw is None:
            text = f"the tensors of job {id!r} are gone: its payload key does not exist"
            raise errors.InvalidRequest(text, reason="payload gone")
        return bytes(raw)

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store a state, as Celery's own method does; the traceback of our own errors is the model's, or none."""
        if isinstance(result, errors.MutiraoError):
            traceback = getattr(result, "_traceback", None)
        return super().store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)

    def prepare_exception(self, exc: Any, serializer: str | None = None) -> Any:
        """Write an exception in Celery's form, with the data of one of ours beside it."""
        prepared = super().prepare_exception(exc, serializer)
        if isinstance(exc, errors.MutiraoError) and isinstance(prepared, dict):
            prepared["exc_data"] = exc.data
        return prepared

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **_: Any
    ) -> Any:
        answer = result if isinstance(result, PredictResult) else None
        result, payload = codec.pack_result(answer, self._inline_bytes) if answer else (result, None)
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        document = msgspec.json.encode({**meta, "task_id": task_id}, enc_hook=str)[:-1]
        keys = [queues.record_key(task_id), queues.payload_key(task_id, "in"), queues.payload_key(task_id, "out")]
        who = (answer.model_name, answer.model_version) if answer else (_model_of(request), "")
        terminal = int(state in states.READY_STATES)
        self._script("store")(
            keys, [document, self._kept_s(), terminal, payload or b"", *who, getattr(request, "hostname", None) or ""]
        )
        return result

    def _retried(self, script: str, keys: list[str], args: list[Any]) -> Any:
        return self._ensure_retryable(self._script(script), keys, args)

    def _script(self, name: str) -> Any:
        if name not in self._scripts:
            self._scripts[name] = self.client.register_script(files(__package__).joinpath(f"{name}.lua").read_text())
        return self._scripts[name]

    def _kept_s(self) -> int:
        return math.ceil(float(self.app.conf.mutirao.result_ttl_s))


def _model_of(request: Any) -> str:
    info = getattr(request, "delivery_info", None) or {}
    return queues.model_of(info.get("routing_key") or "") or ""
