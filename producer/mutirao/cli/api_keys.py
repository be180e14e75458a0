"""`mutirao keys`: the API keys of the gateway, their scopes and their limits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import click
from click.shell_completion import CompletionItem

from mutirao import settings
from mutirao.api_keys import IN_FLIGHT_MAX, SCOPES, ApiKey, ApiKeys, KeyLimits, lockout_remedy
from mutirao.cli import console, render_jobs
from mutirao.cli.options import COMPLETION_S, as_json, broker, completion, joined
from mutirao.cli.redis_store import connected
from mutirao.redisdb.drivers import RedisDriver

_PERIODS_S = {"s": 1, "min": 60, "h": 3600}
_RATE = re.compile(r"(\d+(?:\.\d+)?)/(s|min|h)", re.ASCII)


class Rate(click.ParamType[float]):
    """A rate of requests, such as 100/s, 30/min or 5000/h; becomes requests a second."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return requests a second."""
        match = _RATE.fullmatch(str(value))
        if not match:
            self.fail(f"{value!r} is not a rate: write it as 100/s, 30/min or 5000/h.", param, ctx)
        return float(match[1]) / _PERIODS_S[match[2]]


def _usable(broker_url: str | None) -> list[CompletionItem]:
    with _opened(broker_url, timeout_s=COMPLETION_S) as (redis, store):
        return [CompletionItem(key.id, help=key.tenant) for key in _sorted(redis, store) if key.revoked_at is None]


_limits = joined(
    (
        click.option(
            "--rate", type=Rate(), metavar="RATE", help="The long-run rate of requests: 100/s, 30/min, 5000/h."
        ),
        click.option(
            "--burst",
            type=click.IntRange(1),
            metavar="N",
            help="The largest burst of requests [default: what --rate allows in a second].",
        ),
        click.option(
            "--in-flight", type=click.IntRange(1, IN_FLIGHT_MAX), metavar="N", help="The most jobs that have not ended."
        ),
    )
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: mutirao keys add crm")
def keys() -> None:
    """Add, list and revoke the API keys of the HTTP gateway.

    As soon as there is one, `mutirao gateway` answers only requests with a key that is not revoked; until then it listens to this
    machine only.
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
    with _opened(broker_url) as (redis, store):
        key, token = redis.run(store.add(tenant, scopes=scopes, limits=limits, note=note))
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
    with _opened(broker_url) as (redis, store):
        keys = _sorted(redis, store)
    if as_json:
        for key in keys:
            console.emit_json(_facts(key))
    elif keys:
        console.table(("id", "tenant", "scopes", "limits", "created", "revoked", "note"), map(_row, keys))
        _note_lockout(keys)
    else:
        console.note("no keys: a gateway that starts now needs none, and listens to this machine only")


@keys.command(
    short_help="Revoke keys, within a second and for good.", epilog="Example: mutirao keys revoke 5f0c9a1be2d4"
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=completion(_usable))
@broker
@as_json
def revoke(ids: tuple[str, ...], broker_url: str | None, *, as_json: bool) -> int:
    """Revoke keys: they are refused within a second and for good; jobs that they queued still run."""
    with _opened(broker_url) as (redis, store):

        def revoke_one(id: str) -> None:
            key = redis.run(store.revoke(id))
            if as_json:
                console.emit_json(_facts(key))
            else:
                click.echo(f"revoked {key.id} of tenant {key.tenant!r}")

        code = console.each(dict.fromkeys(ids), revoke_one)
        if not as_json:
            _note_lockout(_sorted(redis, store))
    return code


@keys.command(short_help="Remove all keys, where every one is revoked.", epilog="Example: mutirao keys clear")
@broker
def clear(broker_url: str | None) -> None:
    """Remove all keys, where every one is revoked: a gateway that is started then needs no key, and listens on this machine only."""
    with _opened(broker_url) as (redis, store):
        count = redis.run(store.clear())
    click.echo(f"removed {console.counted(count, 'revoked key')}; restart the gateway: it is then open to this machine")


def _sorted(redis: RedisDriver, store: ApiKeys) -> list[ApiKey]:
    """Read every key, the newest last."""
    return sorted(redis.run(store.all()).values(), key=lambda key: (key.created_at, key.id))


def _note_lockout(keys: Sequence[ApiKey]) -> None:
    """Explain how to open a gateway again where every key is revoked."""
    if remedy := lockout_remedy(keys):
        console.note(remedy)


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
    created, revoked = render_jobs.moment(key.created_at), render_jobs.moment(key.revoked_at) if key.revoked_at else ""
    return key.id, key.tenant, " ".join(key.scopes), _limits_of(key), created, revoked, key.note


def _limits_of(key: ApiKey) -> str:
    rate = "" if key.rate_per_s is None else f"{key.rate_per_s:.3g}/s, {key.burst} at once"
    in_flight = "" if key.in_flight is None else f"{key.in_flight} in flight"
    return ", ".join(filter(None, (rate, in_flight)))


def _opened(broker_url: str | None, **overrides: Any) -> AbstractContextManager[tuple[RedisDriver, ApiKeys]]:
    return connected(settings.load(broker_url=broker_url, **overrides), ApiKeys)
