"""A job as a gateway shows it, made into its record."""

from __future__ import annotations

import msgspec

from mutirao import errors
from mutirao.wire.messages import Failure, History, JobInfo, JobRecord

_STATUS = {
    "running": "STARTED",
    "succeeded": "SUCCESS",
    "failed": "FAILURE",
    "cancelled": "REVOKED",
    "expired": "REVOKED",
}
_REVOKED = {"cancelled": "revoked", "expired": "expired"}


class JobBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a client reads of a job's view: the fields of its record, by the same names.

    Attributes:
        status: queued, running, succeeded, failed, cancelled or expired.
        error: how it failed.
        result: the V2 response as the record keeps it, where it was asked for and does not lie beside the record.
    """

    id: str
    status: str
    model: str = ""
    version: str | None = None
    rows: int = 0
    priority: str = ""
    queued_at: float | None = None
    expires_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    reserved_at: float | None = None
    worker: str | None = None
    attempts: int = 0
    batch: int | None = None
    place: int | None = None
    history: tuple[History, ...] = ()
    error: Fault | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")

    def record(self) -> JobRecord:
        """Make the record that it is a view of."""
        job = JobInfo(
            model=self.model,
            rows=self.rows,
            priority=self.priority,
            queued_at=self.queued_at,
            expires_at=self.expires_at,
            history=self.history,
            started_at=self.started_at,
            finished_at=self.finished_at,
            worker=self.worker or "",
            version=self.version or "",
            attempts=self.attempts,
            reserved_at=self.reserved_at,
            batch=self.batch or 0,
            place=self.place or 0,
        )
        return JobRecord(status=_STATUS.get(self.status, "QUEUED"), task_id=self.id, result=self._result(), job=job)

    def _result(self) -> msgspec.Raw:
        if self.status in _REVOKED:
            return _failure("TaskRevokedError", _REVOKED[self.status], "celery.exceptions")
        if self.error is not None:
            return _failure(self.error.type, self.error.message, errors.__name__, self.error.data)
        return msgspec.Raw(bytes(self.result))


class Fault(msgspec.Struct, frozen=True):
    """How a job failed: the sentence, class and attributes of its error."""

    message: str
    type: str
    data: dict[str, object] = {}


class JobEndings(msgspec.Struct, frozen=True):
    """What a gateway tells of jobs that are waited for: those that have ended, and the ids of which there is no job."""

    jobs: tuple[JobBody, ...] = ()
    missing: tuple[str, ...] = ()


def _failure(kind: str, message: str, module: str, data: dict[str, object] | None = None) -> msgspec.Raw:
    failure = Failure(exc_type=kind, exc_message=[message], exc_module=module, exc_data=data)
    return msgspec.Raw(msgspec.json.encode(failure))
