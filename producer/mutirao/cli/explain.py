"""`mutirao explain`: what happened to jobs, step by step."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from mutirao import job_history, settings
from mutirao.cli import console, render_jobs
from mutirao.cli.options import as_json, broker, job_ids
from mutirao.cli.redis_store import connected
from mutirao.client.redis_backend import RedisBackend
from mutirao.job_history import JobHistory, JobStep


@click.command(epilog="Example: mutirao explain 019aaf5e-7c1b-7d3e-8a55-2f4c0d9b6e11")
@job_ids
@broker
@as_json
def explain(ids: tuple[str, ...], broker_url: str | None, *, as_json: bool) -> int:
    """Show what happened to jobs, step by step, and where they are now.

    Times are in this machine's zone, by Redis's clock, and since the request was submitted. Of a job that waits, it shows how many
    wait before it; of one that a worker holds, which; of one that was given up, its dead letter.
    """
    with connected(settings.load(broker_url=broker_url), lambda settings: RedisBackend(settings, check=False)) as (
        redis,
        backend,
    ):

        def show(id: str) -> None:
            history = redis.run(job_history.read_history(backend, id))
            if as_json:
                console.emit_json(_document(history))
                return
            if id != ids[0]:
                click.echo()
            _show(history)

        return console.each(ids, show)


def _show(history: JobHistory) -> None:
    record, steps = history.record, job_history.steps(history.record)
    click.echo(f"job {record.task_id}, {record.state}")
    for step in steps:
        click.echo(_line(step, steps[0].at))
    for text in _now(history):
        click.echo(console.wrapped(text, "  ", "    "))


def _line(step: JobStep, first: float) -> str:
    clock = datetime.datetime.fromtimestamp(step.at).astimezone().time().isoformat("milliseconds")
    before = f"  {clock}  {f'+{step.at - first:.3f} s':>11}  {step.name:<10} "
    return console.wrapped(step.text, before, " " * len(before)).rstrip()


def _now(history: JobHistory) -> Iterator[str]:
    """Describe where a job is that has not ended, or where a failed one is kept."""
    if (letter := history.letter) is not None:
        yield f"now a dead letter, {letter.reason}: mutirao dead show {letter.id}"
    if history.record.done:
        return
    if history.hidden:
        yield "where it is now cannot be seen: this user of Redis may not look, or the broker is not Redis"
    elif history.held is not None:
        left_s = history.held.lease_s
        lease = f"runs for {left_s:.1f} s more" if left_s > 0 else "has lapsed: another worker takes it over"
        yield f"now held by {history.held.worker}, whose lease {lease}"
    elif (waiting := history.waiting) is not None:
        whose = f", in the queue of tenant {waiting.tenant}" if waiting.tenant else ""
        queue = f"{waiting.queue}{f', priority {waiting.priority}' if waiting.priority else ''}{whose}"
        before = f"more than {waiting.searched:,}" if waiting.before is None else f"{waiting.before:,}"
        urgent = f", and {waiting.urgent:,} more urgent" if waiting.urgent else ""
        yield f"now waiting in {queue}: {before if waiting.before != 0 else 'none'} before it{urgent}"
    else:
        yield "now neither in its queue nor held by a worker: ask again in a moment"
        yield f"if that stays so, its queue was emptied: submit it again under its id, or mutirao cancel {history.record.task_id}"
    if history.failures:
        yield f"no live worker can serve {history.record.job.model!r}: {'; '.join(history.failures)}"
    elif not history.served:
        yield f"no live worker serves {history.record.job.model!r}: start one with mutirao worker"
    if history.record.job.expires_at and history.record.status == "QUEUED":
        yield f"it expires at {render_jobs.moment(history.record.job.expires_at)}"


def _document(history: JobHistory) -> dict[str, Any]:
    job, letter, steps = history.record.job, history.letter, job_history.steps(history.record)
    return render_jobs.facts(history.record) | {
        "steps": [
            {"at": step.at, "after_s": round(step.at - steps[0].at, 6), "what": step.name, "says": step.text}
            for step in steps
        ],
        "history": [msgspec.structs.asdict(entry) for entry in job.history],
        "reserved_at": job.reserved_at,
        "batch": job.batch or None,
        "place": job.place or None,
        "waiting": history.waiting,
        "held": history.held,
        "dead_letter": letter and {name: getattr(letter, name) for name in ("id", "reason", "message", "at")},
    }
