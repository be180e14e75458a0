"""`mutirao submit`, `predict`, `status`, `result`, `cancel`: the life of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from mutirao import errors, keyspace
from mutirao.cli import console, input_data, render_jobs, render_outputs
from mutirao.cli.options import SECONDS, as_json, broker, request
from mutirao.client.client import Client, Job
from mutirao.tables.csv_dialect import Dialect
from mutirao.wire.messages import JobRecord


@click.command(epilog="Example: mutirao submit iris '[[5.1, 3.5, 1.4, 0.2]]'")
@request
@click.option("--rows", is_flag=True, help="Submit each row as a request of its own; print an id for each, one a line.")
def submit(model: str, text: str, broker_url: str | None, *, rows: bool, as_json: bool, **asked: Any) -> None:
    """Queue a request for MODEL and print its job's id.

    DATA is JSON (rows as [[...], ...], columns as {"age": [31], ...}, or a V2 request), a file (rows.csv, rows.npy, @rows.json), or -
    for standard input.
    """
    if rows and asked["id"] is not None:
        raise click.UsageError("--id names one request, --rows makes many: leave one of them out.")
    with Client(broker_url) as client:
        for job in _submitted(client, model, text, rows=rows, **asked):
            if as_json:
                console.emit_json({"id": job.id, "model": model})
            else:
                click.echo(job.id)


@click.command(epilog="Example: mutirao predict iris '[[5.1, 3.5, 1.4, 0.2]]' --timeout 10")
@request
@click.option("--timeout", type=SECONDS, metavar="S", help="Wait at most S seconds; the job goes on after that.")
def predict(
    model: str, text: str, broker_url: str | None, *, timeout: float | None, as_json: bool, **asked: Any
) -> int:
    """Send a request to MODEL and wait for its result: `submit` and `result --wait` in one.

    DATA is JSON (rows as [[...], ...], columns as {"age": [31], ...}, or a V2 request), a file (rows.csv, rows.npy, @rows.json), or -
    for standard input.
    """
    with Client(broker_url) as client:
        (job,) = _submitted(client, model, text, **asked)
        try:
            record = client.finished(job, timeout)
        except KeyboardInterrupt:
            console.note(f"job {job.id} goes on; for its answer: mutirao result {job.id} --wait")
            raise
        return _answer(client, record, as_json=as_json)


@click.command(epilog="Example: mutirao status 019aaf5e-7c1b-7d3e-8a55-2f4c0d9b6e11")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@broker
@as_json
def status(ids: tuple[str, ...], broker_url: str | None, *, as_json: bool) -> int:
    """Show the state of jobs: queued, running, succeeded, failed, cancelled or expired."""
    found: list[JobRecord] = []
    with Client(broker_url) as client:
        code = each(ids, lambda name: found.append(client.record(name)))
    if as_json:
        for record in found:
            console.emit_json(render_jobs.facts(record))
    elif len(ids) == 1:
        for record in found:
            render_jobs.describe(record)
    elif found:
        render_jobs.table(found)
    return code


@click.command(epilog="Example: mutirao result 019aaf5e-7c1b-7d3e-8a55-2f4c0d9b6e11 --wait")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
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

        return each(ids, answer)


@click.command(epilog="Example: mutirao cancel 019aaf5e-7c1b-7d3e-8a55-2f4c0d9b6e11")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@broker
@as_json
def cancel(ids: tuple[str, ...], broker_url: str | None, *, as_json: bool) -> int:
    """Cancel jobs that still wait; one that runs or has ended stays as it is, and the exit code is 1."""
    with Client(broker_url) as client:
        return each(ids, lambda name: _cancelled(client, name, as_json=as_json))


def each(ids: Iterable[str], act: Callable[[str], console.Exit | None]) -> console.Exit:
    """Run an action for each id, whether or not others fail; return the first exit code that is not 0."""
    codes = [_tried(id, act) for id in ids]
    return next(filter(None, codes), console.Exit.OK)


def _submitted(
    client: Client,
    model: str,
    text: str,
    *,
    rows: bool = False,
    expires: float | None,
    outputs: tuple[str, ...],
    id: str | None,
    priority: str,
    **csv: str | None,
) -> list[Job]:
    """Read DATA and submit it; note where no live worker will serve it soon."""
    given = input_data.read(text, Dialect.checked(**csv))
    known = client.catalog()
    taken, notes = given.arrays(known.find(model).signature)
    for each in notes:
        console.note(f"note: {each}")
    asked: dict[str, Any] = {
        "outputs": outputs or given.outputs,
        "parameters": given.parameters,
        "expires_s": expires,
        "priority": priority,
    }
    if rows:
        jobs = _queued(client, model, input_data.split(taken), asked)
    else:
        jobs = [client.submit(model, taken, id=id or given.id, **asked)]
    if not known.is_served(model):
        console.note(f"queued; no live worker serves {model!r} now: start one with mutirao worker")
    return jobs


def _queued(client: Client, model: str, rows: list[Any], asked: dict[str, Any]) -> list[Job]:
    """Queue a request for each row; an interruption reports what is queued, which is all of it or nothing."""
    ids = keyspace.new_ids(len(rows))
    try:
        return client.submit_many(model, rows, ids=ids, **asked)
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


def _cancelled(client: Client, id: str, *, as_json: bool) -> console.Exit:
    done = client.cancel(id)
    state = "cancelled" if done else client.record(id).state
    if as_json:
        console.emit_json({"id": id, "state": state})
    elif done:
        click.echo(f"cancelled {id}")
    if not done:
        says = "is running" if state == "running" else f"has already {state}"
        console.complain(f"job {id} {says}; only a job that waits can be cancelled")
    return console.Exit.OK if done else console.Exit.FAILED


def _tried(id: str, act: Callable[[str], console.Exit | None]) -> console.Exit:
    try:
        return act(id) or console.Exit.OK
    except errors.BrokerUnavailable:
        raise
    except errors.MutiraoError as exc:
        return console.fail(exc)
