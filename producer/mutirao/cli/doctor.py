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
    configured = settings.load(broker_url=broker_url)
    findings, code = _examined(configured)
    if as_json:
        url = settings.without_password(configured.broker_url)
        console.emit_json({"broker": url, "exit": int(code), "findings": findings})
    else:
        _show(findings)
    return code


def _examined(configured: Settings) -> tuple[list[Finding], console.Exit]:
    try:
        system = snapshot.read(configured, os.environ)
    except errors.BrokerUnavailable as exc:
        system = snapshot.local(configured, os.environ)
        return [_no_answer(configured, exc), *settings_checks.CHECKS.run(system)], console.Exit.UNAVAILABLE
    findings = list(_findings(system))
    failed = any(finding.level == "problem" for finding in findings)
    return findings, console.Exit.FAILED if failed else console.Exit.OK


def _findings(system: Snapshot) -> Iterator[Finding]:
    if system.gateway is not None:
        yield from gateway_checks.CHECKS.run(system.gateway)
    else:
        for at, server in enumerate(system.servers):
            for finding in redis_checks.CHECKS.run(server):
                yield msgspec.structs.replace(finding, check=f"results: {finding.check}") if at else finding
        yield from fleet_checks.CHECKS.run(system)
    yield from settings_checks.CHECKS.run(system)


def _no_answer(configured: Settings, exc: errors.BrokerUnavailable) -> Finding:
    cause = exc.__cause__
    reason = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
    text, remedy = f"{exc.url} does not answer: {reason}", "start one with mutirao up"
    if configured.uses_gateway:
        text, remedy = str(exc), "start one with mutirao gateway"
    elif denied(cause):
        text = f"{exc.url} refuses: {reason}"
        return Finding("answer", "problem", text, "check the user and password in MUTIRAO_BROKER_URL")
    elif isinstance(cause, redis.BusyLoadingError):
        return Finding("answer", "problem", text, "wait until Redis has loaded its data")
    return Finding("answer", "problem", text, f"{remedy}, or set MUTIRAO_BROKER_URL to the one that runs")


def _show(findings: Sequence[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    indent = " " * (width + 11)
    for finding in findings:
        level = f"{finding.level:<7}"
        text = console.wrapped(finding.found, f"{level}  {finding.check:<{width}}  ", indent)
        styled = click.style(level, fg=COLOURS[finding.level], bold=finding.level == "problem")
        click.echo(styled + text.removeprefix(level))
        if finding.remedy:
            click.echo(console.wrapped(finding.remedy, f"{indent}-> ", f"{indent}   "))
    problems, warnings = (sum(finding.level == level for finding in findings) for level in ("problem", "warning"))
    click.echo(f"\n{console.counted(problems, 'problem')}, {console.counted(warnings, 'warning')}")
