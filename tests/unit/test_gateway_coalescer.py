"""What a gateway remembers of its own jobs, and what one answer about many jobs holds."""

import msgspec

from mutirao.client.job import JobHandle, SubmissionContext
from mutirao.gateway.state import coalescer
from mutirao.gateway.state.coalescer import Queued
from mutirao.gateway.streams import long_poll
from mutirao.wire.messages import JobInfo, JobRecord

ORIGIN = SubmissionContext("me", None, 1.0)


def queued(*ids, known=False):
    return [Queued(JobHandle(id, None if known else ORIGIN), known) for id in ids]


def test_own_jobs_are_remembered_until_their_ends_were_told():
    """A job is remembered with what its submit knew; one that was known before, and another tenant's of the same id, are not."""
    kept = coalescer.RecentSubmissions()
    kept.keep(queued("crm~a", "crm~b"))
    kept.keep(queued("crm~c", known=True))

    found = kept.handles(["crm~a", "crm~b", "crm~c", "crm~d", "shop~a", "a"])
    assert {id: job.context for id, job in found.items()} == {"crm~a": ORIGIN, "crm~b": ORIGIN}
    kept.forget(["crm~a", "never"])
    assert kept.handles(["crm~a", "crm~b"]).keys() == {"crm~b"}


def test_only_the_latest_jobs_are_remembered(monkeypatch):
    """However many jobs nobody waits for, the memory of them is bounded; the oldest go first."""
    monkeypatch.setattr(coalescer, "RECENT_MAX", 3)
    kept = coalescer.RecentSubmissions()
    kept.keep(queued("a", "b"))
    kept.keep(queued("c", "d", "e"))

    assert kept.handles("abcde").keys() == {"c", "d", "e"}


def test_an_answer_holds_so_many_results(monkeypatch):
    """Results beyond the limit of an answer are left out, smaller ones behind them not; every end is told."""
    monkeypatch.setattr(long_poll, "RESULTS_BYTES", 150)

    def record(id, size):
        result = msgspec.json.encode({"model_name": "m" * size, "model_version": "1", "outputs": []})
        return JobRecord(status="SUCCESS", task_id=id, result=msgspec.Raw(result), job=JobInfo(model="m"))

    told = long_poll._answer(
        {"a": record("a", 10), "b": record("b", 100), "c": record("c", 10), "d": None}, results=True
    )
    assert [(job.id, job.result is not msgspec.UNSET) for job in told.jobs] == [("a", True), ("b", False), ("c", True)]
    assert told.missing == ("d",)
    bare = long_poll._answer({"a": record("a", 10)}, results=False)
    assert bare.jobs[0].result is msgspec.UNSET
