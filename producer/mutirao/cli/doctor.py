"""`mutirao doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import click
import msgspec
import redis

from mutirao import errors, settings
from mutirao.cli import console
from mutirao.cli.options import as_json, broker
from mutirao.doctor import fleet_checks, gateway_checks, redis_checks, settings_checks, snapshot
from mutirao.doctor.finding import Finding
from mutirao.doctor.snapshot import Snapshot
from mutirao.redisdb.failure import denied
from mutirao.settings import Settings

COLOURS = {"ok": "green", "unknown": "blue", "warning": "yellow", "problem": "red"}


@click.command(epilog="Example: mutirao doctor --json")
@broker
@as_json
def doctor(broker_url: str | None, *, as_json: bool) -> int:
    """Check settings, Redis, workers and the gateway; report each problem and its remedy.

    Looks at Redis (address, version, eviction, persistence, memory, clock), at workers, models and queues, and at settings that
    contradict each other. Where the URL is a gateway's, looks at that instead of Redis and workers: whether it answers, is ready
    and takes the key. Changes nothing. The exit code is 0 where there is no problem, 1 where there is one, 4 where nothing answers.
    """
    given = settings.load(broker_url=broker_url)
    found, code = _examined(given)
    if as_json:
        console.emit_json({"broker": settings.without_password(given.broker_url), "exit": int(code), "findings": found})
    else:
        _show(found)
    return code


def _examined(given: Settings) -> tuple[list[Finding], console.Exit]:
    try:
        seen = snapshot.read(given, os.environ)
    except errors.BrokerUnavailable as exc:
        seen = snapshot.local(given, os.environ)
        return [
            _silent(exc) if given.uses_gateway else _away(exc),
            *settings_checks.findings(seen),
        ], console.Exit.UNAVAILABLE
    found = list(_findings(seen))
    failed = any(finding.level == "problem" for finding in found)
    return found, console.Exit.FAILED if failed else console.Exit.OK


def _findings(seen: Snapshot) -> Iterator[Finding]:
    if seen.gateway is not None:
        yield from gateway_checks.findings(seen.gateway)
        yield from settings_checks.findings(seen)
        return
    for at, each in enumerate(seen.servers):
        for finding in redis_checks.findings(each):
            yield msgspec.structs.replace(finding, check=f"results: {finding.check}") if at else finding
    yield from fleet_checks.findings(seen)
    yield from settings_checks.findings(seen)


def _silent(exc: errors.BrokerUnavailable) -> Finding:
    return Finding(
        "answer", "problem", str(exc), "start one with mutirao gateway, or set MUTIRAO_BROKER_URL to the one that runs"
    )


def _away(exc: errors.BrokerUnavailable) -> Finding:
    cause = exc.__cause__
    reason = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
    if denied(cause):
        return Finding(
            "answer", "problem", f"{exc.url} refuses: {reason}", "check the user and password in MUTIRAO_BROKER_URL"
        )
    found = f"{exc.url} does not answer: {reason}"
    if isinstance(cause, redis.BusyLoadingError):
        return Finding("answer", "problem", found, "wait until Redis has loaded its data")
    return Finding(
        "answer", "problem", found, "start one with mutirao up, or set MUTIRAO_BROKER_URL to the one that runs"
    )


def _show(found: Sequence[Finding]) -> None:
    width = max(len(finding.check) for finding in found)
    for finding in found:
        level = f"{finding.level:<7}"
        indent = " " * (width + 11)
        said = console.wrapped(finding.found, f"{level}  {finding.check:<{width}}  ", indent)
        styled = click.style(level, fg=COLOURS[finding.level], bold=finding.level == "problem")
        click.echo(styled + said.removeprefix(level))
        if finding.remedy:
            click.echo(console.wrapped(finding.remedy, f"{indent}-> ", f"{indent}   "))
    click.echo(f"\n{_counted(found, 'problem')}, {_counted(found, 'warning')}")


def _counted(found: Sequence[Finding], level: str) -> str:
    count = sum(finding.level == level for finding in found)
    return f"{count or 'no'} {level}{'' if count == 1 else 's'}"
