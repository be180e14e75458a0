"""`mutirao keys`: the API keys of the gateway: who may use it, for what, and how much."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from mutirao import errors, settings
from mutirao.api_keys import IN_FLIGHT_MAX, SCOPES, ApiKey, ApiKeys, KeyLimits, lockout_remedy
from mutirao.cli import console, render_jobs
from mutirao.cli.options import COMPLETION_S, Command, as_json, broker
from mutirao.redisdb.drivers import Operation, RedisDriver
from mutirao.settings import Settings

_PERIODS_S = {"s": 1, "min": 60, "h": 3600}
_RATE = re.compile(r"(\d+(?:\.\d+)?)/(s|min|h)", re.ASCII)

T = TypeVar("T")


class Rate(click.ParamType[float]):
    """A rate of requests, such as 100/s, 30/min or 5000/h; becomes requests a second."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        match = _RATE.fullmatch(str(value))
        if not match:
            self.fail(f"{value!r} is no rate: write it as 100/s, 30/min or 5000/h.", param, ctx)
        return float(match[1]) / _PERIODS_S[match[2]]


class KeyId(click.ParamType[str]):
    """A key's id; completed with those that are not revoked."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        """Return the id unchanged."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Read the ids from Redis, for a second at most; no error is shown to who presses TAB."""
        with (
            contextlib.suppress(errors.MutiraoError),
            _opened(ctx.params.get("broker_url"), timeout_s=COMPLETION_S) as ring,
        ):
            good = [key for key in ring.sorted() if key.revoked_at is None]
            return [CompletionItem(key.id, help=key.tenant) for key in good if key.id.startswith(incomplete)]
        return []


class Ring:
    """The keys of one Redis."""

    def __init__(self, given: Settings) -> None:
        self.keys = ApiKeys(given)
        self._redis = RedisDriver(given)

    def run(self, operation: Operation[T]) -> T:
        """Run an operation."""
        return self._redis.run(operation)

    def sorted(self) -> list[ApiKey]:
        """Read every key, the newest last."""
        return sorted(self.run(self.keys.all()).values(), key=lambda key: (key.created_at, key.id))

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _limits(command: Command) -> Command:
    rate = click.option(
        "--rate", type=Rate(), metavar="RATE", help="The long-run rate of requests: 100/s, 30/min, 5000/h."
    )
    burst = click.option(
        "--burst",
        type=click.IntRange(1),
        metavar="N",
        help="The largest burst of requests [default: what --rate allows in a second].",
    )
    in_flight = click.option(
        "--in-flight", type=click.IntRange(1, IN_FLIGHT_MAX), metavar="N", help="The most jobs that have not ended."
    )
    return rate(burst(in_flight(command)))


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: mutirao keys add crm")
def keys() -> None:
    """Add, list and revoke the API keys of the HTTP gateway.

    As soon as there is one, `mutirao gateway` answers nobody without a good key; until then it listens to this machine alone.
    """


@keys.command(
    epilog="Example: mutirao keys add crm --scope predict:iris --scope read:iris --rate 100/s --in-flight 500"
)
@click.argument("tenant")
@click.option(
    "--scope",
    "scopes",
    metavar="VERB:MODEL",
    multiple=True,
    default=SCOPES,
    show_default=True,
    help="What it allows, repeatable: predict, read, cancel, operate or *, of a model or *.",
)
@_limits
@click.option("--note", default="", metavar="TEXT", help="A note on who has the key.")
@broker
@as_json
def add(
    tenant: str,
    scopes: tuple[str, ...],
    rate: float | None,
    burst: int | None,
    in_flight: int | None,
    note: str,
    broker_url: str | None,
    *,
    as_json: bool,
) -> None:
    """Create a key for a tenant and print it; it is shown only once.

    Keys of one tenant see the same jobs, and share its place in the queues; each has its own scopes and limits.
    """
    if burst is not None and rate is None:
        raise click.UsageError("--burst is how much of a rate may come at once: name it with --rate.")
    limits = KeyLimits(rate_per_s=rate, burst=burst or math.ceil(rate or 1), in_flight=in_flight)
    with _opened(broker_url) as ring:
        key, token = ring.run(ring.keys.add(tenant, scopes=scopes, limits=limits, note=note))
    if as_json:
        console.emit_json(_facts(key) | {"token": token})
        return
    click.echo(token)
    console.note(f"key {key.id} of tenant {key.tenant!r}: keep it now, it will not be shown again")


@keys.command("list", short_help="List keys, revoked ones too, the newest last.", epilog="Example: mutirao keys list")
@broker
@as_json
def list_(broker_url: str | None, *, as_json: bool) -> None:
    """List keys, revoked ones too, the newest last; the secret part is never shown."""
    with _opened(broker_url) as ring:
        found = ring.sorted()
    if as_json:
        for key in found:
            console.emit_json(_facts(key))
    elif found:
        console.table(("id", "tenant", "scopes", "limits", "created", "revoked", "note"), map(_row, found))
        _note_closed(found)
    else:
        console.note("no keys: a gateway that starts now is open, and listens to this machine alone")


@keys.command(
    short_help="Revoke keys, within a second and for good.", epilog="Example: mutirao keys revoke 5f0c9a1be2d4"
)
@click.argument("ids", type=KeyId(), metavar="ID...", nargs=-1, required=True)
@broker
@as_json
def revoke(ids: tuple[str, ...], broker_url: str | None, *, as_json: bool) -> int:
    """Revoke keys: they are refused within a second and for good; jobs that they queued still run."""
    with _opened(broker_url) as ring:
        codes = [_revoked(ring, id, as_json=as_json) for id in dict.fromkeys(ids)]
        if not as_json:
            _note_closed(ring.sorted())
    return next(filter(None, codes), console.Exit.OK)


@keys.command(short_help="Remove all keys, where every one is revoked.", epilog="Example: mutirao keys clear")
@broker
def clear(broker_url: str | None) -> None:
    """Remove all keys, where every one is revoked: a gateway that is started then needs no key, and listens on this machine only."""
    with _opened(broker_url) as ring:
        count = ring.run(ring.keys.clear())
    click.echo(
        f"removed {count} revoked key{'' if count == 1 else 's'}; restart the gateway: it is then open to this machine"
    )


def _revoked(ring: Ring, id: str, *, as_json: bool) -> console.Exit:
    try:
        key = ring.run(ring.keys.revoke(id))
    except errors.KeyNotFound as exc:
        return console.fail(exc)
    if as_json:
        console.emit_json(_facts(key))
    else:
        click.echo(f"revoked {key.id} of tenant {key.tenant!r}")
    return console.Exit.OK


def _note_closed(found: Sequence[ApiKey]) -> None:
    """Explain how to open a gateway again where every key is revoked."""
    if closed := lockout_remedy(found):
        console.note(closed)


def _facts(key: ApiKey) -> dict[str, Any]:
    """Return the flat JSON document of a key, without its secret."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "scopes": key.scopes,
        "rate_per_s": key.rate_per_s,
        "burst": key.burst if key.rate_per_s is not None else None,
        "in_flight": key.in_flight,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        "note": key.note or None,
    }


def _row(key: ApiKey) -> tuple[str, ...]:
    revoked = render_jobs.moment(key.revoked_at) if key.revoked_at is not None else ""
    return (
        key.id,
        key.tenant,
        " ".join(key.scopes),
        _limited(key),
        render_jobs.moment(key.created_at),
        revoked,
        key.note,
    )


def _limited(key: ApiKey) -> str:
    said = []
    if key.rate_per_s is not None:
        said.append(f"{key.rate_per_s:.3g}/s, {key.burst} at once")
    if key.in_flight is not None:
        said.append(f"{key.in_flight} in flight")
    return ", ".join(said)


@contextlib.contextmanager
def _opened(broker_url: str | None, **given: Any) -> Iterator[Ring]:
    ring = Ring(settings.load(broker_url=broker_url, **given))
    try:
        yield ring
    finally:
        ring.close()
