"""`mutirao dead`: the requests that could not be served."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import click
from click.shell_completion import CompletionItem

from mutirao import errors, keyspace, settings
from mutirao.cli import console, render_jobs, render_outputs
from mutirao.cli.options import COMPLETION_S, Command, as_json, broker, completion, joined, served_models
from mutirao.cli.redis_store import connected
from mutirao.client.redis_backend import RedisBackend
from mutirao.dead_letters import REASONS, DeadLetter, DeadLetters, check_version, letter_not_found
from mutirao.redisdb.drivers import RedisDriver

SHOWN = 100
COMPLETED = 50


def _newest(broker_url: str | None) -> list[CompletionItem]:
    with _opened(broker_url, timeout_s=COMPLETION_S) as (redis, store):
        return [CompletionItem(id) for id in reversed(redis.run(store.ids()))]


_complete = completion(_newest, COMPLETED)
_filters = joined(
    (
        click.option(
            "--model", metavar="MODEL", help="Only those of this model.", shell_complete=completion(served_models)
        ),
        click.option("--reason", type=click.Choice(REASONS), help="Only those given up for this reason."),
    )
)


def _selection(verb: str) -> Callable[[Command], Command]:
    ids = click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=_complete)
    everything = click.option("--all", "everything", is_flag=True, help=f"{verb} all; or all that match.")
    return joined((ids, everything, _filters))


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: mutirao dead list")
def dead() -> None:
    """List, show, replay and purge what could not be served.

    A request whose worker or process died too often, or that ran past its time limit, is kept here after its job has failed; so is a
    message that was not a request. They stay until they are replayed or purged, except the oldest of more than 100,000.
    """


@dead.command("list", epilog="Example: mutirao dead list --model iris --reason 'process died'")
@_filters
@click.option(
    "--limit", type=click.IntRange(1), default=SHOWN, show_default=True, metavar="N", help="The newest N of them."
)
@broker
@as_json
def list_(model: str | None, reason: str | None, limit: int, broker_url: str | None, *, as_json: bool) -> None:
    """List dead letters, the newest first."""
    with _opened(broker_url) as (redis, store):
        ids = redis.run(store.ids())[::-1]
        matching = redis.run(store.matching(ids, model, reason, limit + 1))
    letters = matching[:limit]
    if as_json:
        for letter in letters:
            console.emit_json(_facts(letter))
    elif letters:
        console.table(("id", "model", "reason", "attempts", "worker", "when"), map(_row, letters))
    else:
        console.note("no dead letters" + (" match" if ids else ""))
    if len(matching) > limit and not as_json:
        of = f" of {len(ids):,}" if model is None and reason is None else ""
        console.note(f"the newest {limit:,}{of}: --limit N shows more")


@dead.command(
    short_help="Show one dead letter: why, when and where.",
    epilog="Example: mutirao dead show 019aaf5e-7c1b-7d3e-8a55-2f4c0d9b6e11",
)
@click.argument("id", metavar="ID", shell_complete=_complete)
@click.option("--payload", is_flag=True, help="Print the request's values too; they may be confidential.")
@broker
@as_json
def show(id: str, broker_url: str | None, *, payload: bool, as_json: bool) -> None:
    """Show one dead letter: why, when, where, how often it was tried, and its shape."""
    with _opened(broker_url) as (redis, store):
        letter = redis.run(store.find(id))
        raw = redis.run(store.tensors(letter)) if payload else None
    if as_json:
        console.emit_json(_facts(letter) | (_payload(letter, raw) if payload else {}))
        return
    console.labelled(_lines(letter))
    if payload:
        _show_payload(letter, raw)


@dead.command(epilog="Example: mutirao dead replay --all --model iris --to-version 2")
@_selection("Replay")
@click.option(
    "--to-version",
    metavar="V",
    help="Only if workers now serve version V, the one in which the mistake is fixed.",
)
@broker
@as_json
def replay(
    ids: tuple[str, ...],
    model: str | None,
    reason: str | None,
    broker_url: str | None,
    *,
    everything: bool,
    to_version: str | None,
    as_json: bool,
) -> int:
    """Send dead letters again, under their own ids.

    Each goes to the end of its queue with a new deadline, its job is queued again, and no earlier attempt counts. A letter that
    cannot be sent says why on stderr and stays, the others are sent, and the exit code is 1; one that is not there gives 3.
    """
    _check_selection(ids, model, reason, everything=everything)
    if everything and to_version is not None and model is None:
        raise click.UsageError("--to-version is a version of one model: name it with --model.")
    with _opened(broker_url) as (redis, store):
        letters = _chosen(redis, store, ids, model, reason)
        if to_version is not None and letters:
            registry = redis.run(RedisBackend(settings.load(broker_url=broker_url), check=False).catalog())
            check_version(letters, registry, keyspace.version_name(to_version))
        outcomes = redis.run(store.replay(letters))
    if not ids and not outcomes:
        console.note("no dead letters to replay")
    refused = {id: outcomes.get(id, letter_not_found(id)) for id in ids or outcomes}
    return _report("replayed", refused, as_json=as_json)


@dead.command(epilog="Example: mutirao dead purge --all --model iris --yes")
@_selection("Remove")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation, as --all does.")
@broker
@as_json
def purge(
    ids: tuple[str, ...],
    model: str | None,
    reason: str | None,
    broker_url: str | None,
    *,
    everything: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove dead letters for good; their jobs' records stay."""
    _check_selection(ids, model, reason, everything=everything)
    with _opened(broker_url) as (redis, store):
        chosen = dict.fromkeys(ids or [letter.id for letter in _chosen(redis, store, ids, model, reason)])
        if not chosen:
            console.note("no dead letters to remove")
        elif everything and not yes:
            console.confirm(f"Remove {console.counted(len(chosen), 'dead letter')} for good?")
        removed = set(redis.run(store.purge(list(chosen))))
    # Of those that were not named, one that another command removed meanwhile is not reported.
    refused = {id: None if id in removed else letter_not_found(id) for id in chosen if id in (ids or removed)}
    return _report("purged", refused, as_json=as_json)


def _check_selection(ids: Sequence[str], model: str | None, reason: str | None, *, everything: bool) -> None:
    if bool(ids) == everything:
        raise click.UsageError("Name dead letters by their ids, or take --all; mutirao dead list shows them.")
    if ids and (model is not None or reason is not None):
        raise click.UsageError("--model and --reason choose among all: take --all with them, and no ids.")


def _report(done: str, refused: Mapping[str, errors.MutiraoError | None], *, as_json: bool) -> console.Exit:
    """Report what was done with each dead letter, or why it was not."""

    def report(id: str) -> None:
        error = refused[id]
        if as_json:
            console.emit_json({"id": id, done: error is None})
        elif error is None:
            click.echo(f"{done} {id}")
        if error is not None:
            raise error

    return console.each(refused, report)


def _facts(letter: DeadLetter) -> dict[str, Any]:
    """Return the flat JSON document of a letter, without any value of its request."""
    queue, _, step = letter.queue.partition(keyspace.KOMBU_SEPARATOR)
    return {
        "id": letter.id,
        "task_id": letter.task_id or None,
        "model": letter.model or None,
        "queue": queue,
        "priority": _priority(step),
        "reason": letter.reason,
        "message": letter.message,
        "at": letter.at,
        "worker": letter.worker,
        "attempts": letter.attempts,
        "shape": letter.summary,
        "bytes": len(letter.envelope),
        "replayable": letter.replayable,
    }


def _priority(step: str) -> str | None:
    return {str(number or ""): name for name, number in keyspace.STEPS.items()}.get(step)


def _row(letter: DeadLetter) -> tuple[str, ...]:
    when = render_jobs.moment(letter.at)
    return letter.id, letter.model or "?", letter.reason, str(letter.attempts), letter.worker, when


def _lines(letter: DeadLetter) -> Iterator[tuple[str, str]]:
    facts = _facts(letter)
    yield "letter", letter.id
    if not letter.task_id:
        yield "job", "none: the message has no id"
    yield "model", letter.model or f"none: it came from the queue {facts['queue']}"
    yield "reason", letter.reason
    yield "message", letter.message
    yield "given up", f"{render_jobs.moment(letter.at)}, by {letter.worker}"
    yield "attempts", str(letter.attempts)
    yield "priority", facts["priority"] or "unknown"
    yield "shape", letter.summary or f"unknown, {facts['bytes']} bytes in all"
    if letter.is_offloaded:
        yield "tensors", "in a key of their own, kept for a week"
    yield "replay", f"mutirao dead replay {letter.id}" if letter.replayable else "not possible: it is not a request"


def _show_payload(letter: DeadLetter, raw: bytes | None) -> None:
    if letter.is_offloaded and raw is None:
        console.note("its tensors, which were in a key of their own, are gone")
        return
    try:
        inputs = letter.inputs(raw)
    except errors.InvalidRequest:
        click.echo(f"{'envelope':<9} {letter.envelope}")
        return
    render_outputs.show({name or "values": array for name, array in inputs.items()})


def _payload(letter: DeadLetter, raw: bytes | None) -> dict[str, Any]:
    try:
        inputs = render_outputs.plain(letter.inputs(raw)) if raw is not None or not letter.is_offloaded else None
    except errors.InvalidRequest:
        inputs = None
    return {"inputs": inputs, "envelope": letter.envelope, "envelope_base64": letter.envelope_base64}


def _chosen(
    redis: RedisDriver, store: DeadLetters, ids: Sequence[str], model: str | None, reason: str | None
) -> list[DeadLetter]:
    """Read the named letters; or, where none is named, those that match, the oldest first."""
    if not ids:
        return redis.run(store.matching(redis.run(store.ids()), model, reason))
    letters = redis.run(store.letters(tuple(dict.fromkeys(ids))))
    return [letter for letter in letters if letter is not None]


def _opened(broker_url: str | None, **overrides: Any) -> AbstractContextManager[tuple[RedisDriver, DeadLetters]]:
    return connected(settings.load(broker_url=broker_url, **overrides), DeadLetters)
