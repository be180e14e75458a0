"""Celery's result backend, for what Celery itself ends: a revoked request, a message that never became one."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import redis
from celery import states
from celery.backends.redis import RedisBackend

from mutirao import errors
from mutirao.redisdb.connection import connect
from mutirao.redisdb.drivers import options
from mutirao_worker.engine import job_records
from mutirao_worker.engine.script_client import ScriptClient


class ResultBackend(RedisBackend):  # type: ignore[misc]  # Celery has no types
    """Keeps Celery's documents under Celery's keys, where a stock client finds them. A job ends once: the first end wins."""

    _scripts: ScriptClient | None = None

    def prepare_exception(self, exc: Any, serializer: str | None = None) -> Any:
        """Write an exception in Celery's form, with the data of one of ours added."""
        prepared = super().prepare_exception(exc, serializer)
        if isinstance(exc, errors.MutiraoError) and isinstance(prepared, dict):
            prepared["exc_data"] = exc.data
        return prepared

    def _create_client(self, **_: Any) -> redis.Redis:
        settings = self.app.conf.mutirao
        return connect(settings.result_url, settings, **options(settings))

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """Celery need not read the URL, and is not told its password: `_create_client` knows it."""
        return defaults

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **_: Any
    ) -> Any:
        if state not in states.READY_STATES:  # the engine itself says what is queued and what runs
            return result
        meta = {"status": state, "task_id": task_id, **self._get_result_meta(result, state, traceback, request)}
        head = msgspec.json.encode(meta, enc_hook=str)[:-1] + b',"job":'
        self._ensure_retryable(self._commit, task_id, head)
        return result

    def _commit(self, task_id: str, head: bytes) -> None:
        if self._scripts is None:
            self._scripts = ScriptClient(self.client)
        kept = math.ceil(self.app.conf.mutirao.result_ttl_s)
        first = ("", kept, "", b',"started_at":null', 0, 0)
        self._scripts.call(
            "commit", ("", "", "", ""), job_records.arguments(first, (b"", task_id, head, b""), (1, b""))
        )
