"""A job as a gateway shows it, decoded leniently, and made into its record."""

from __future__ import annotations

import msgspec

from mutirao import errors
from mutirao.wire import http_schemas, messages
from mutirao.wire.http_schemas import JobView
from mutirao.wire.messages import JobInfo, JobRecord

_STATUS = {
    "running": "STARTED",
    "succeeded": "SUCCESS",
    "failed": "FAILURE",
    "cancelled": "REVOKED",
    "expired": "REVOKED",
}
_REVOKED = {"cancelled": "revoked", "expired": "expired"}


class JobBody(JobView, frozen=True, kw_only=True):
    """The view of a job, of which an older gateway may leave out what it does not know."""

    error: JobFault | None = None
    links: http_schemas.Links = http_schemas.links("")

    def record(self) -> JobRecord:
        """Return the record that this is a view of."""
        job = JobInfo(**{field: getattr(self, field) for field in http_schemas.JOB_FIELDS})
        return JobRecord(status=_STATUS.get(self.status, "QUEUED"), task_id=self.id, result=self._result(), job=job)

    def _result(self) -> msgspec.Raw:
        if self.status in _REVOKED:
            return _failure("TaskRevokedError", _REVOKED[self.status], "celery.exceptions")
        if self.error is not None:
            return _failure(self.error.type, self.error.message, errors.__name__, self.error.data)
        return msgspec.Raw(b"null" if self.result is msgspec.UNSET else bytes(self.result))


class JobFault(http_schemas.Failure, frozen=True, kw_only=True):
    """Why a job ended without a result; the status may be left out."""

    status: int = 500


class JobEndings(msgspec.Struct, frozen=True):
    """The answer to a wait: the jobs that have ended, and the ids of which there is no job."""

    jobs: tuple[JobBody, ...] = ()
    missing: tuple[str, ...] = ()


def _failure(kind: str, message: str, module: str, data: dict[str, object] | None = None) -> msgspec.Raw:
    failure = messages.Failure(exc_type=kind, exc_message=[message], exc_module=module, exc_data=data)
    return msgspec.Raw(msgspec.json.encode(failure))
