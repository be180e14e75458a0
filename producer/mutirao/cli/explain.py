"""`mutirao explain`: what happened to jobs, step by step."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from mutirao import job_history, settings
from mutirao.cli import console, render_jobs
from mutirao.cli.jobs import each
from mutirao.cli.options import as_json, broker
from mutirao.client.redis_backend import RedisBackend
from mutirao.job_history import JobHistory, JobStep
from mutirao.redisdb.drivers import RedisDriver


@click.command(epilog="Example: mutirao explain 019aaf5e-7c1b-7d3e-8a55-2f4c0d9b6e11")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@broker
@as_json
def explain(ids: tuple[str, ...], broker_url: str | None, *, as_json: bool) -> int:
    """Show what happened to jobs, step by step, and where they are now.

    Times are those of this machine's zone by Redis's clock, and since the request was submitted. A job that waits says how many wait
    before it; one that a worker holds, which; one that was given up, where its dead letter is.
    """
    given = settings.load(broker_url=broker_url)
    core, redis = RedisBackend(given, check=False), RedisDriver(given)

    def tell(id: str) -> None:
        story = redis.run(job_history.read_history(core, id))
        if as_json:
            console.emit_json(_document(story))
        else:
            if id != ids[0]:
                click.echo()
            _show(story)

    try:
        return each(ids, tell)
    finally:
        redis.close()


def _show(story: JobHistory) -> None:
    record, steps = story.record, job_history.steps(story.record)
    click.echo(f"job {record.task_id}, {record.state}")
    for step in steps:
        click.echo(_line(step, steps[0].at))
    for text in _now(story):
        click.echo(console.wrapped(text, "  ", "    "))


def _line(step: JobStep, first: float) -> str:
    clock = datetime.datetime.fromtimestamp(step.at).astimezone().time().isoformat("milliseconds")
    before = f"  {clock}  {f'+{step.at - first:.3f} s':>11}  {step.name:<10} "
    return console.wrapped(step.text, before, " " * len(before)).rstrip()


def _now(story: JobHistory) -> Iterator[str]:
    """Describe where a job is that has not ended, or where a failed one is kept."""
    if (letter := story.letter) is not None:
        yield f"now a dead letter, {letter.reason}: mutirao dead show {letter.id}"
    if story.record.done:
        return
    if story.hidden:
        yield "where it is now cannot be seen: this user of Redis may not look, or the broker is no Redis"
    elif story.held is not None:
        lapsed = "has lapsed: another worker takes it over"
        lease = f"runs for {story.held.lease_s:.1f} s more" if story.held.lease_s > 0 else lapsed
        yield f"now held by {story.held.worker}, whose lease {lease}"
    elif (waiting := story.waiting) is not None:
        whose = f", in the line of tenant {waiting.tenant}" if waiting.tenant else ""
        queue = f"{waiting.queue}{f', priority {waiting.priority}' if waiting.priority else ''}{whose}"
        before = (
            f"more than {waiting.searched:,}"
            if waiting.before is None
            else f"{waiting.before:,}"
            if waiting.before
            else "none"
        )
        urgent = f", and {waiting.urgent:,} more urgent" if waiting.urgent else ""
        yield f"now waiting in {queue}: {before} before it{urgent}"
    else:
        yield "now neither in its queue nor held by a worker: ask again in a moment"
        id = story.record.task_id
        yield f"if that stays so, its queue was emptied: submit it again under its id, or mutirao cancel {id}"
    if not story.served:
        yield f"no live worker serves {story.record.job.model!r}: start one with mutirao worker"
    if story.record.job.expires_at and story.record.status == "QUEUED":
        yield f"it expires at {render_jobs.moment(story.record.job.expires_at)}"


def _document(story: JobHistory) -> dict[str, Any]:
    steps = job_history.steps(story.record)
    letter = story.letter
    return render_jobs.facts(story.record) | {
        "steps": [
            {"at": step.at, "after_s": round(step.at - steps[0].at, 6), "what": step.name, "says": step.text}
            for step in steps
        ],
        "history": [msgspec.structs.asdict(entry) for entry in story.record.job.history],
        "reserved_at": story.record.job.reserved_at,
        "batch": story.record.job.batch or None,
        "place": story.record.job.place or None,
        "waiting": story.waiting,
        "held": story.held,
        "dead_letter": None if letter is None else {"id": letter.id, "reason": letter.reason, "message": letter.message, "at": letter.at},
    }  # fmt: skip
