"""Job records as text and as JSON."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Any

from mutirao.cli import console
from mutirao.client.job import timings
from mutirao.wire.messages import JobRecord


def facts(record: JobRecord) -> dict[str, Any]:
    """Return the flat JSON document of a record; times are seconds since the epoch by Redis's clock, null where unset."""
    job, times = record.job, timings(record)
    return {
        "id": record.task_id,
        "model": job.model,
        "version": job.version or None,
        "state": record.state,
        "reason": reason(record),
        "rows": job.rows,
        "priority": job.priority,
        "attempts": job.attempts,
        "worker": job.worker or None,
        "queued_at": times.queued_at,
        "started_at": times.started_at,
        "finished_at": times.finished_at,
        "expires_at": job.expires_at,
        "queued_s": times.queued_s,
        "computed_s": times.computed_s,
    }


def reason(record: JobRecord) -> str | None:
    """Return why a job ended without a result; None where it did not."""
    return str(record.error()) if record.done and record.status != "SUCCESS" else None


def describe(record: JobRecord) -> None:
    """Print everything about one job, a line each."""
    console.labelled(_lines(record))


def table(records: Iterable[JobRecord]) -> None:
    """Print jobs, a line each."""
    console.table(("id", "model", "state", "rows", "waited", "computed", "worker"), map(_row, records))


def moment(at: float | None) -> str:
    """Format a time in this machine's time zone."""
    if at is None:
        return "?"
    return f"{datetime.datetime.fromtimestamp(at).astimezone():%-d %b %Y %H:%M:%S}"


def span(seconds: float | None) -> str:
    """Format a duration in a suitable unit."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _lines(record: JobRecord) -> Iterator[tuple[str, str]]:
    job, times = record.job, timings(record)
    yield "job", record.task_id
    yield "model", " ".join(filter(None, (job.model or "?", job.version and f"version {job.version}")))
    yield "state", record.state
    if why := reason(record):
        yield "reason", why
    if job.rows:
        yield "rows", str(job.rows)
    yield "queued", moment(times.queued_at) + ("" if job.priority in {"", "normal"} else f", priority {job.priority}")
    if times.started_at:
        attempt = f", attempt {job.attempts}" if job.attempts > 1 else ""
        yield "started", f"{moment(times.started_at)}, after {span(times.queued_s)}, by {job.worker}{attempt}"
    if times.finished_at:
        after = f", after {span(times.computed_s)}" if times.started_at else ""
        yield "finished", moment(times.finished_at) + after
    if not record.done and job.expires_at and not times.started_at:
        yield "expires", moment(job.expires_at)


def _row(record: JobRecord) -> tuple[str, ...]:
    job, times = record.job, timings(record)
    spans = (span(times.queued_s), span(times.computed_s))
    return record.task_id, job.model, record.state, str(job.rows or ""), *spans, job.worker
