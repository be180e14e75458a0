"""Checks of this process's settings: those that contradict each other, and unknown ones."""

from __future__ import annotations

import difflib

from mutirao.doctor.finding import Checks, Finding, listed, ok, problem, warning
from mutirao.doctor.snapshot import Snapshot
from mutirao.settings import PREFIX, Settings, without_password

KNOWN = tuple(PREFIX + name.upper() for name in Settings.__struct_fields__)
# Those that the compose file reads.
COMPOSED = (
    "MUTIRAO_REDIS_", "MUTIRAO_FLOWER_", "MUTIRAO_WORKER_", "MUTIRAO_EXAMPLE_", "MUTIRAO_MODELS_DIR", "MUTIRAO_GATEWAYS",
    "MUTIRAO_GATEWAY_MEMORY", "MUTIRAO_GATEWAY_PORTS", "MUTIRAO_WEBHOOKS_MEMORY",
)  # fmt: skip
# The time limit of a model whose model.toml sets none.
TIME_LIMIT_S = 60.0

CHECKS = Checks[Snapshot]()


@CHECKS.add("address")
def address(system: Snapshot) -> Finding:
    """Where a system runs in this folder, commands reach that one."""
    url = without_password(system.settings.broker_url)
    if system.here and system.here != system.settings.broker_url:
        text = f"`mutirao up` runs here at {without_password(system.here)}, but commands use {url}"
        return warning(text, "unset MUTIRAO_BROKER_URL, unless that is meant")
    return ok(url)


@CHECKS.add("variables")
def variables(system: Snapshot) -> Finding:
    """Each MUTIRAO_ variable is one that something reads."""
    unknown = [
        name
        for name in system.environment
        if name.startswith(PREFIX) and name not in KNOWN and not name.startswith(COMPOSED)
    ]
    if not unknown:
        return ok("every MUTIRAO_ variable is known")
    near = [
        f"{name}: did you mean {match[0]}?" for name in unknown if (match := difflib.get_close_matches(name, KNOWN, 1))
    ]
    return warning(f"nothing reads {listed(unknown)}", " ".join(near) or f"the settings are {', '.join(KNOWN)}")


@CHECKS.add("results")
def results(system: Snapshot) -> Finding:
    """Requests and results are kept together."""
    if not system.settings.separate_results:
        return ok("kept with the requests")
    text = f"kept at {without_password(system.settings.result_url)}, apart from the requests: a crash between the two writes leaves a record whose request was never queued, until it expires"
    return ok(text) if system.settings.uses_amqp else warning(text, "unset MUTIRAO_RESULT_URL, unless that is meant")


@CHECKS.add("lifetimes")
def lifetimes(system: Snapshot) -> Finding:
    """A job's record outlives the job: it is kept for result_ttl_s from its start, and again from its end."""
    ttl_s, longest_s = system.settings.result_ttl_s, max(system.limits.values(), default=TIME_LIMIT_S)
    if ttl_s <= longest_s:
        text = f"MUTIRAO_RESULT_TTL_S is {ttl_s:g}, but a model may run for {longest_s:g} s: its job would be forgotten while it runs"
        return problem(text, f"set it above {longest_s:g}, or lower time_limit_s in model.toml")
    wait_s = system.settings.expires_s
    return ok(f"requests wait for {_span(wait_s)} at most, results are kept for {_span(ttl_s)}")


@CHECKS.add("sizes")
def sizes(system: Snapshot) -> Finding:
    """A request of the largest allowed size fits into Redis."""
    largest = system.settings.max_request_bytes
    for server in system.servers:
        limit = int((server.info or {}).get("maxmemory", 0))
        if limit and largest > limit / 4:
            text = f"MUTIRAO_MAX_REQUEST_BYTES is {largest}, more than a quarter of Redis's maxmemory, {limit}"
            return warning(text, f"set it to {limit // 10}, or raise maxmemory")
    return ok(f"requests of up to {largest / 2**20:g} MiB are accepted")


def _span(seconds: float) -> str:
    for unit, count in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * count:
            return f"{seconds / count:.3g} {unit}"
    return f"{seconds:g} s"
