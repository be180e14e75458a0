"""What a job's record tells of it, step by step: a table of records."""

import msgspec
import pytest

from mutirao import job_history
from mutirao.wire.messages import History, JobInfo, JobRecord

FAILED = b'{"exc_type":"WorkerLostError","exc_message":["gave up after 3 attempts"],"exc_module":"billiard.exceptions"}'
REVOKED = b'{"exc_type":"TaskRevokedError","exc_message":["%b"],"exc_module":"celery.exceptions"}'
ASKED = {"model": "iris", "rows": 1, "priority": "normal", "queued_at": 100.0, "expires_at": 200.0}
RAN = {"started_at": 102.0, "finished_at": 102.0042, "worker": "w1@host", "version": "3", "attempts": 1, "reserved_at": 101.0,
       "batch": 64, "place": 17}  # fmt: skip
SUBMITTED = (100.0, "submitted", "to iris, 1 row, priority normal")


def record(status, result=b"null", id="mine", **job):
    return JobRecord(status=status, task_id=id, result=msgspec.Raw(result), job=JobInfo(**job))


@pytest.mark.parametrize(
    ("job", "steps"),
    [
        (record("QUEUED", **ASKED), [SUBMITTED]),
        (
            record("SUCCESS", **ASKED, **RAN),
            [
                SUBMITTED,
                (101.0, "reserved", "by w1@host"),
                (102.0, "batched", "with 63 others, 17th in order"),
                (102.0, "run", "for 4.2 ms on w1@host, version 3"),
                (102.0042, "committed", "succeeded"),
            ],
        ),
        (
            record("STARTED", **ASKED, started_at=102.0, worker="w1@host", batch=1),
            [SUBMITTED, (102.0, "batched", "alone"), (102.0, "run", "since then on w1@host")],
        ),
        (record("REVOKED", REVOKED % b"revoked", **ASKED, finished_at=103.0), [SUBMITTED, (103.0, "cancelled", "")]),
        (record("REVOKED", REVOKED % b"expired", **ASKED, finished_at=200.5), [SUBMITTED, (200.5, "expired", "")]),
        (
            record("FAILURE", FAILED, **ASKED, **RAN | {"attempts": 3, "batch": 1, "place": 1}),
            [
                SUBMITTED,
                (101.0, "reserved", "by w1@host"),
                (102.0, "batched", "alone"),
                (102.0, "run", "for 4.2 ms on w1@host, version 3, attempt 3"),
                (102.0042, "committed", "failed: the process that ran the model died: gave up after 3 attempts"),
            ],
        ),
        (
            record("FAILURE", FAILED, **ASKED, finished_at=110.0, worker="w1@host", attempts=10,
                   history=(History("w2@host", 105.0, "worker lost"), History("w3@host", 106.0, "given back"))),
            [
                SUBMITTED,
                (105.0, "lost", "with its worker w2@host; back to the head of its queue"),
                (106.0, "given back", "by w3@host, to the head of its queue"),
                (110.0, "failed", "the process that ran the model died: gave up after 3 attempts"),
            ],
        ),
        (
            record("QUEUED", id="01a20a77-a580-75bc-abca-16d6ed9fd2e9", **ASKED | {"queued_at": 1795471999.0},
                   history=(History("w1@host", 1795471947.0, "time limit"), History("", 1795471999.0, "replayed"))),
            [
                (1795471943.04, "submitted", "to iris, 1 row, priority normal"),
                (1795471947.0, "given up", "on w1@host: time limit; to the dead letters"),
                (1795471999.0, "replayed", "from the dead letters, to the end of its queue"),
            ],
        ),
        (record("FAILURE", FAILED, finished_at=9.0, started_at=9.0), [(9.0, "failed", "the process that ran the model died: gave up after 3 attempts")]),
    ],
    ids=["waits", "succeeded", "runs", "cancelled", "expired", "given up", "lost", "replayed", "unknown before"],
)  # fmt: skip
def test_steps(job, steps):
    """Each kind of job tells its steps in order, in words that say who, how long and with whom."""
    assert [(pytest.approx(step.at), step.name, step.text) for step in job_history.steps(job)] == steps


def test_clocks_that_differ_do_not_turn_steps_round():
    """A worker whose idea of Redis's clock is off by a millisecond does not run a request before it has reserved it."""
    steps = job_history.steps(record("SUCCESS", **ASKED, **RAN | {"reserved_at": 102.001}))
    assert [step.name for step in steps] == ["submitted", "reserved", "batched", "run", "committed"]
    assert [step.at for step in steps] == sorted(step.at for step in steps)


@pytest.mark.parametrize(("number", "written"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"), (21, "21st"), (112, "112th")])  # fmt: skip
def test_ordinals(number, written):
    """Places are written as people say them."""
    assert job_history.ordinal(number) == written
