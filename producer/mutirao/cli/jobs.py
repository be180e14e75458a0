"""`mutirao submit`, `predict`, `status`, `result`, `cancel`: the life of a job."""

from __future__ import annotations

from typing import Any

import click

from mutirao import errors, keyspace
from mutirao.cli import console, input_data, render_jobs, render_outputs
from mutirao.cli.options import SECONDS, as_json, broker, job_ids, request
from mutirao.client.client import Client, Job
from mutirao.tables.csv_dialect import Dialect
from mutirao.wire.messages import JobRecord


@click.command(epilog="Example: mutirao submit iris '[[5.1, 3.5, 1.4, 0.2]]'")
@request
@click.option("--rows", is_flag=True, help="Submit each row as a request of its own; print an id for each, one a line.")
def submit(model: str, text: str, broker_url: str | None, *, rows: bool, as_json: bool, **options: Any) -> None:
    """Queue a request for MODEL and print its job's id.

    DATA is JSON (rows as [[...], ...], columns as {"age": [31], ...}, or a V2 request), a file (rows.csv, rows.npy, @rows.json), or -
    for standard input.
    """
    if rows and options["id"] is not None:
        raise click.UsageError("--id names one request, --rows makes many: leave one of them out.")
    with Client(broker_url) as client:
        for job in _submitted(client, model, text, rows=rows, **options):
            if as_json:
                console.emit_json({"id": job.id, "model": model})
            else:
                click.echo(job.id)


@click.command(epilog="Example: mutirao predict iris '[[5.1, 3.5, 1.4, 0.2]]' --timeout 10")
@request
@click.option("--timeout", type=SECONDS, metavar="S", help="Wait at most S seconds; the job goes on after that.")
def predict(
    model: str, text: str, broker_url: str | None, *, timeout: float | None, as_json: bool, **options: Any
) -> int:
    """Send a request to MODEL and wait for its result: `submit` and `result --wait` in one.

    DATA is JSON (rows as [[...], ...], columns as {"age": [31], ...}, or a V2 request), a file (rows.csv, rows.npy, @rows.json), or -
    for standard input.
    """
    with Client(broker_url) as client:
        (job,) = _submitted(client, model, text, **options)
        try:
            record = client.finished(job, timeout)
        except KeyboardInterrupt:
            console.note(f"job {job.id} goes on; for its answer: mutirao result {job.id} --wait")
            raise
        return _answer(client, record, as_json=as_json)


@click.command(epilog="Example: mutirao status 019aaf5e-7c1b-7d3e-8a55-2f4c0d9b6e11")
@job_ids
@broker
@as_json
def status(ids: tuple[str, ...], broker_url: str | None, *, as_json: bool) -> int:
    """Show the state of jobs: queued, running, succeeded, failed, cancelled or expired."""
    records: list[JobRecord] = []
    with Client(broker_url) as client:
        code = console.each(ids, lambda name: records.append(client.record(name)))
    if len(ids) > 1 and records and not as_json:
        render_jobs.table(records)
        return code
    for record in records:
        if as_json:
            console.emit_json(render_jobs.facts(record))
        else:
            render_jobs.describe(record)
    return code


@click.command(epilog="Example: mutirao result 019aaf5e-7c1b-7d3e-8a55-2f4c0d9b6e11 --wait")
@job_ids
@click.option("--wait", is_flag=True, help="Wait until the job has ended.")
@click.option("--timeout", type=SECONDS, metavar="S", help="Wait at most S seconds for each job; implies --wait.")
@broker
@as_json
def result(ids: tuple[str, ...], broker_url: str | None, *, wait: bool, timeout: float | None, as_json: bool) -> int:
    """Print the results of jobs.

    A job that ended without an answer says why on stderr, and the exit code is 1; one that has not ended yet gives 5.
    """
    with Client(broker_url) as client:

        def answer(id: str) -> console.Exit:
            waits = wait or timeout is not None
            record = client.finished(client.job(id), timeout) if waits else _ended(client.record(id))
            if len(ids) > 1 and not as_json and record.status == "SUCCESS":
                click.echo(f"job {id}")
            return _answer(client, record, as_json=as_json)

        return console.each(ids, answer)


@click.command(epilog="Example: mutirao cancel 019aaf5e-7c1b-7d3e-8a55-2f4c0d9b6e11")
@job_ids
@broker
@as_json
def cancel(ids: tuple[str, ...], broker_url: str | None, *, as_json: bool) -> int:
    """Cancel jobs that still wait; one that runs or has ended stays as it is, and the exit code is 1."""
    with Client(broker_url) as client:
        return console.each(ids, lambda name: _cancel(client, name, as_json=as_json))


def _submitted(
    client: Client,
    model: str,
    text: str,
    *,
    rows: bool = False,
    expires: float | None,
    outputs: tuple[str, ...],
    parameters: tuple[str, ...],
    id: str | None,
    priority: str,
    **csv: str | None,
) -> list[Job]:
    """Read DATA and submit it; note where no live worker will serve it soon."""
    data = input_data.read(text, Dialect.checked(**csv))
    registry = client.catalog()
    takes = registry.find(model).signature
    inputs, notes = data.arrays(takes)
    for note in notes:
        console.note(f"note: {note}")
    options: dict[str, Any] = {
        "outputs": outputs or data.outputs,
        "parameters": {**(data.parameters or {}), **input_data.parameters(parameters, takes)} or None,
        "expires_s": expires,
        "priority": priority,
    }
    if rows:
        jobs = _submit_rows(client, model, input_data.split(inputs), options)
    else:
        jobs = [client.submit(model, inputs, id=id or data.id, **options)]
    if not registry.is_served(model):
        console.note(f"queued; no live worker serves {model!r} now: start one with mutirao worker")
    return jobs


def _submit_rows(client: Client, model: str, rows: list[Any], options: dict[str, Any]) -> list[Job]:
    """Queue a request for each row; an interruption reports what is queued, which is all of it or nothing."""
    ids = keyspace.new_ids(len(rows))
    try:
        return client.submit_many(model, rows, ids=ids, **options)
    except KeyboardInterrupt:
        try:
            client.record(ids[0])
        except errors.JobNotFound:
            console.note("nothing is queued")
        else:
            console.note(f"all {len(ids)} requests are queued, and run: their ids follow")
            click.echo("\n".join(ids))
        raise


def _answer(client: Client, record: JobRecord, *, as_json: bool) -> console.Exit:
    """Print the outputs of an ended job, or on stderr why there are none: whatever the reason, the job failed."""
    if record.status != "SUCCESS":
        console.fail(record.error())
        return console.Exit.FAILED
    outputs = client.outputs(record)
    if as_json:
        console.emit_json(render_outputs.document(record, outputs))
    else:
        render_outputs.show(outputs)
    return console.Exit.OK


def _ended(record: JobRecord) -> JobRecord:
    if not record.done:
        text = f"job {record.task_id} is {record.state}: wait for it with mutirao result {record.task_id} --wait"
        raise errors.ResultTimeout(text, id=record.task_id)
    return record


def _cancel(client: Client, id: str, *, as_json: bool) -> console.Exit:
    done = client.cancel(id)
    state = "cancelled" if done else client.record(id).state
    if as_json:
        console.emit_json({"id": id, "state": state})
    elif done:
        click.echo(f"cancelled {id}")
    if not done:
        what = "is running" if state == "running" else f"has already {state}"
        console.complain(f"job {id} {what}; only a job that waits can be cancelled")
    return console.Exit.OK if done else console.Exit.FAILED
