"""A job's view is what a client over HTTP makes its record of."""

import msgspec
import pytest

from mutirao import errors
from mutirao.client.http_backend.http_call import error_from
from mutirao.client.http_backend.job_view import JobBody
from mutirao.wire.http_schemas import job_view
from mutirao.wire.messages import History, JobInfo, JobRecord

RESULT = msgspec.Raw(b'{"model_name":"iris","model_version":"1","outputs":[]}')
BESIDE = msgspec.Raw(b'{"model_name":"iris","model_version":"1","outputs":[],"parameters":{"binary_data_beside":true}}')
QUEUED = JobInfo(model="iris", rows=2, priority="high", queued_at=1.5, expires_at=9.5)
ENDED = msgspec.structs.replace(
    QUEUED, history=(History(worker="a", at=2.0, how="worker lost"),), started_at=2.5, finished_at=3.5, worker="b",
    version="1", attempts=2, reserved_at=2.25, batch=3, place=2,
)  # fmt: skip


def failure(kind, message, module, **data):
    return msgspec.Raw(
        msgspec.json.encode(
            {"exc_type": kind, "exc_message": [message], "exc_module": module, "exc_data": data or None}
        )
    )


@pytest.mark.parametrize(
    "record",
    [
        JobRecord(status="QUEUED", task_id="a", job=QUEUED),
        JobRecord(status="STARTED", task_id="a", job=msgspec.structs.replace(ENDED, finished_at=None)),
        JobRecord(status="SUCCESS", task_id="a", result=RESULT, job=ENDED),
        JobRecord(status="FAILURE", task_id="a", result=failure("ModelFailed", "it raised", "mutirao.errors", model="iris", cause="ValueError"), job=ENDED),
        JobRecord(status="FAILURE", task_id="a", result=failure("WorkerLostError", "signal 9", "billiard.exceptions"), job=ENDED),
        JobRecord(status="REVOKED", task_id="a", result=failure("TaskRevokedError", "revoked", "celery.exceptions"), job=QUEUED),
        JobRecord(status="REVOKED", task_id="a", result=failure("TaskRevokedError", "expired", "celery.exceptions"), job=QUEUED),
    ],
    ids=["queued", "running", "succeeded", "failed", "lost", "cancelled", "expired"],
)  # fmt: skip
def test_a_view_is_its_record(record):
    """From a job's view a client makes the record: the same state, times, result and error."""
    shown = msgspec.json.encode(job_view(record, result=True))
    made = msgspec.json.decode(shown, type=JobBody).record()
    assert (made.status, made.task_id, made.job) == (record.status, record.task_id, record.job)
    if record.status == "SUCCESS":
        assert bytes(made.result) == bytes(record.result)
    elif record.done:
        error, meant = made.error(), record.error()
        assert (type(error), str(error), error.data) == (type(meant), str(meant), meant.data)


def test_a_large_result_is_not_in_a_view():
    """A result that is kept beside its record has to be read apart."""
    record = JobRecord(status="SUCCESS", task_id="a", result=BESIDE, job=ENDED)
    made = msgspec.json.decode(msgspec.json.encode(job_view(record, result=True)), type=JobBody).record()
    assert bytes(made.result) == b"null"


def test_an_error_of_a_newer_gateway():
    """An error whose class is not known here is raised all the same, with its sentence."""
    error = error_from(418, b'{"error": "no coffee", "type": "Teapot", "data": {"short": true}}', "http://h")
    assert type(error) is errors.MutiraoError
    assert str(error) == "no coffee"
