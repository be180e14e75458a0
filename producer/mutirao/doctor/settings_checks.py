"""Checks of this process's settings: those that contradict each other, and unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

from mutirao.doctor.finding import Finding, listed
from mutirao.doctor.snapshot import Snapshot
from mutirao.settings import PREFIX, Settings, without_password

KNOWN = tuple(PREFIX + name.upper() for name in Settings.__struct_fields__)
# Those that the compose file reads.
COMPOSED = (
    "MUTIRAO_REDIS_", "MUTIRAO_FLOWER_", "MUTIRAO_WORKER_", "MUTIRAO_EXAMPLE_", "MUTIRAO_MODELS_DIR", "MUTIRAO_GATEWAYS",
    "MUTIRAO_GATEWAY_MEMORY", "MUTIRAO_GATEWAY_PORTS", "MUTIRAO_WEBHOOKS_MEMORY",
)  # fmt: skip
# What a model may take that says nothing else.
TIME_LIMIT_S = 60.0


def findings(seen: Snapshot) -> Iterator[Finding]:
    """Run every check."""
    for check in CHECKS:
        yield check(seen)


def variables(seen: Snapshot) -> Finding:
    """Each MUTIRAO_ variable is one that something reads."""
    unknown = [
        name
        for name in seen.environment
        if name.startswith(PREFIX) and name not in KNOWN and not name.startswith(COMPOSED)
    ]
    if not unknown:
        return Finding("variables", "ok", "every MUTIRAO_ variable is known")
    near = [
        f"{name}: did you mean {match[0]}?" for name in unknown if (match := difflib.get_close_matches(name, KNOWN, 1))
    ]
    return Finding(
        "variables",
        "warning",
        f"nothing reads {listed(unknown)}",
        " ".join(near) or f"the settings are {', '.join(KNOWN)}",
    )


def address(seen: Snapshot) -> Finding:
    """Where a system runs in this folder, commands talk to it."""
    if seen.here and seen.here != seen.given.broker_url:
        text = f"`mutirao up` runs here at {without_password(seen.here)}, but commands use {without_password(seen.given.broker_url)}"
        return Finding("address", "warning", text, "unset MUTIRAO_BROKER_URL, unless that is meant")
    return Finding("address", "ok", without_password(seen.given.broker_url))


def place(seen: Snapshot) -> Finding:
    """Requests and results are kept together."""
    if not seen.given.separate_results:
        return Finding("results", "ok", "kept with the requests")
    text = f"kept at {without_password(seen.given.result_url)}, apart from the requests: a crash between the two writes leaves a record whose request was never queued, until it expires"
    if seen.given.uses_amqp:
        return Finding("results", "ok", text)
    return Finding("results", "warning", text, "unset MUTIRAO_RESULT_URL, unless that is meant")


def kept(seen: Snapshot) -> Finding:
    """A job's record outlives the job: it is kept for result_ttl_s from its start, and again from its end."""
    ttl_s, longest_s = seen.given.result_ttl_s, max(seen.limits.values(), default=TIME_LIMIT_S)
    if ttl_s <= longest_s:
        text = f"MUTIRAO_RESULT_TTL_S is {ttl_s:g}, but a model may run for {longest_s:g} s: its job would be forgotten while it runs"
        return Finding("lifetimes", "problem", text, f"set it above {longest_s:g}, or lower time_limit_s in model.toml")
    return Finding(
        "lifetimes",
        "ok",
        f"requests wait for {_span(seen.given.expires_s)} at most, results are kept for {_span(ttl_s)}",
    )


def size(seen: Snapshot) -> Finding:
    """A request of the largest size that is let through fits into Redis."""
    largest = seen.given.max_request_bytes
    for server in seen.servers:
        limit = int((server.info or {}).get("maxmemory", 0))
        if limit and largest > limit / 4:
            text = f"MUTIRAO_MAX_REQUEST_BYTES is {largest}, more than a quarter of Redis's maxmemory, {limit}"
            return Finding("sizes", "warning", text, f"set it to {limit // 10}, or raise maxmemory")
    return Finding("sizes", "ok", f"requests of up to {largest / 2**20:g} MiB are let through")


CHECKS: tuple[Callable[[Snapshot], Finding], ...] = (address, variables, place, kept, size)


def _span(seconds: float) -> str:
    for unit, count in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * count:
            return f"{seconds / count:.3g} {unit}"
    return f"{seconds:g} s"
