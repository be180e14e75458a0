"""Checks of workers, models and queues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mutirao.doctor.finding import Checks, Finding, hidden, listed, ok, problem, warning
from mutirao.doctor.snapshot import Snapshot
from mutirao.registry import Registry

START = "start one with mutirao worker"

CHECKS = Checks[Snapshot]()


@CHECKS.add_for("workers", lambda system: system.registry, "HGETALL mutirao:workers")
def workers(registry: Registry) -> Finding:
    """At least one worker is alive."""
    alive = registry.workers
    if not alive:
        return problem("none has announced itself in the last 15 s", f"{START}; if one runs, look into its log")
    total = sum(worker.processes for worker in alive)
    names = listed([worker.name for worker in alive])
    return ok(f"{len(alive)} alive, {total} prediction{'' if total == 1 else 's'} at once: {names}")


@CHECKS.add_for("leases", lambda system: system.registry, "ZRANGEBYSCORE mutirao:leases")
def leases(registry: Registry) -> Finding:
    """Each worker that announces itself has a lease, without which it takes no requests."""
    if registry.unleased:
        return warning(
            f"announced a moment ago, but without a lease, so that they take no requests: {listed(registry.unleased)}",
            "killed a moment ago, or cut off from Redis: then its log says why; restart it if it does not come back by itself",
        )
    if registry.silent:
        return warning(
            f"gone: {listed(registry.silent)} (silent, and the lease is over; the requests they held are queued again)",
            "killed or stopped: start it again if it is wanted; this warning goes 15 s after its last announcement",
        )
    return ok("every worker that announces itself takes requests")


@CHECKS.add_for("models", lambda system: system.registry, "HGETALL mutirao:models")
def models(registry: Registry) -> Finding:
    """Each announced model can answer."""
    expected = registry.expected()
    if not expected:
        return warning("none has been announced", f"add one with mutirao models add NAME FILE, and {START}")
    if broken := [name for name, info in expected.items() if info.state != "ready"]:
        reasons = [f"{name} ({'; '.join(registry.failures(name)) or expected[name].reason})" for name in broken]
        return problem(
            f"unavailable, as no live worker can load them: {listed(reasons)}",
            "mutirao models verify on a worker's machine says more; then restart that worker. Their requests end with the reason",
        )
    if unserved := [name for name in expected if not registry.serving(name)]:
        return warning(f"no live worker serves {listed(unserved)}", f"{START}; requests for them wait until then")
    if noted := [f"{name} ({info.reason})" for name, info in expected.items() if info.reason]:
        return warning(
            f"served, but: {listed(noted)}",
            "save the model again with the library that serves it, or start a worker that has the other: mutirao models env NAME",
        )
    left = sorted(registry.models.keys() - expected.keys())
    rest = f"; in no live worker's repository: {listed(left)} (mutirao models forget {left[0]})" if left else ""
    return ok(f"{len(expected)} served: {listed(expected)}{rest}")


@CHECKS.add_for("failures", lambda system: system.registry, "HGETALL mutirao:workers")
def failures(registry: Registry) -> Finding:
    """No worker fails to load a model that others serve."""
    failing = [
        f"{name} on {worker.name} ({reason})"
        for worker in registry.workers
        for name, reason in sorted(worker.failing.items())
        if registry.serving(name)
    ]
    if failing:
        return warning(
            f"served by some workers, but not by every one: {listed(failing)}",
            "mutirao models verify on that machine says more; then restart that worker",
        )
    return ok("no worker fails to load what others serve")


@CHECKS.add_for("versions", lambda system: system.registry, "HGETALL mutirao:workers")
def versions(registry: Registry) -> Finding:
    """All workers serve the same version of a model."""
    served = _versions(registry).items()
    if split := [f"{model} ({', '.join(sorted(numbers))})" for model, numbers in served if len(numbers) > 1]:
        return warning(
            f"workers serve different versions of {listed(split)}", "restart the workers that started before the change"
        )
    if copies := [f"{model} version {version} ({hosts})" for model, version, hosts in _copies(registry)]:
        return warning(
            f"workers serve differing copies of {listed(copies)}",
            "make their repositories the same (or add the change as a new version), and restart their workers",
        )
    return ok("each model is served in one version, from the same files")


@CHECKS.add("queues")
def queues(system: Snapshot) -> Finding:
    """No request waits for a model that no live worker serves."""
    if system.settings.uses_amqp:
        return ok("not visible from here: the broker is not Redis; look at its own monitor")
    if system.waiting is None:
        return hidden("LLEN mutirao.*")
    queued = {model: count for model, count in system.waiting.items() if count}
    shown = listed([f"{model} {count}" for model, count in queued.items()])
    if system.registry and (unserved := [model for model in queued if not system.registry.serving(model)]):
        return problem(
            f"waiting: {shown}; no live worker serves {listed(unserved)}",
            f"mutirao worker --only {','.join(unserved)}; add a model first that is in no repository",
        )
    return ok(f"waiting: {shown}" if shown else "nothing waits")


@CHECKS.add("taken")
def reserved(system: Snapshot) -> Finding:
    """A live worker holds what was taken."""
    if system.reserved is None:
        return hidden("SCAN")
    text = f"{system.reserved} taken by workers and not yet answered"
    if system.reserved and system.registry is not None and not system.registry.workers:
        return warning(f"{text}, but no worker is alive", f"{START}: it takes them over at once")
    return ok(text)


@CHECKS.add("queued jobs")
def lost_requests(system: Snapshot) -> Finding:
    """Each queued job's request is in a queue, or a worker holds it."""
    if system.settings.uses_amqp:
        return ok("not checked: only with Redis is it known where a request is")
    if system.orphans is None:
        return hidden("SCAN, GETRANGE celery-task-meta-*")
    ids, orphans = system.orphans.ids, system.orphans
    limited = "" if orphans.whole else f" (not all {orphans.looked_at:,} records were checked)"
    if not ids:
        return ok(f"each is in its queue, or a worker holds it{limited}")
    return warning(
        f"{len(ids)} are queued by their record, but in no queue, and no worker holds them: {listed(ids)}{limited}",
        "their queue was emptied by another program, or by hand: submit them again under the same ids, or mutirao cancel ID",
    )


@CHECKS.add_for("dead letters", lambda system: system.dead, "HLEN mutirao:dead")
def dead(count: int) -> Finding:
    """No request was given up."""
    if count:
        return warning(f"{count} request{'s were' if count > 1 else ' was'} given up", "mutirao dead list says why")
    return ok("none")


@CHECKS.add_for("keys", lambda system: system.lockout, "HGETALL mutirao:keys")
def api_keys(lockout: str) -> Finding:
    """Where there are API keys, at least one is not revoked."""
    if lockout:
        state, _, remedy = lockout.partition(": ")
        return warning(state, remedy)
    return ok(
        "usable, or none: without any, a gateway needs no key and listens to this machine only, from its next start"
    )


@CHECKS.add_for("webhooks", lambda system: system.undelivered, "LLEN mutirao:webhooks")
def undelivered_webhooks(count: int) -> Finding:
    """No webhook waits without a process that sends it."""
    if count:
        return warning(f"{count} wait to be sent, and no process sends them", "start one with mutirao webhooks")
    return ok("none waits to be sent")


@CHECKS.add_for("neighbours", lambda system: system.foreign, "SCAN")
def foreign(queues: tuple[str, ...]) -> Finding:
    """No other Celery application shares the database."""
    if not queues:
        return ok("no other Celery application uses this database")
    return warning(
        f"another Celery application uses this database (queues {listed(queues)}): commands and events of either reach the workers of both",
        "give mutirão a database of its own, such as /1 at the end of MUTIRAO_BROKER_URL",
    )


def _copies(registry: Registry) -> Iterator[tuple[str, str, str]]:
    """Find models of which workers serve differing copies under one version: model, version, and the workers by their copies."""
    for model in sorted(registry.models):
        workers = defaultdict(list)
        for worker in registry.serving(model):
            if model in worker.digests:
                workers[worker.digests[model]].append(worker.name)
        if len(workers) > 1:
            version = registry.serving(model)[0].models[model]
            yield model, version, " against ".join(", ".join(sorted(names)) for names in sorted(workers.values()))


def _versions(registry: Registry) -> dict[str, set[str]]:
    served = defaultdict(set)
    for worker in registry.workers:
        for model, version in worker.models.items():
            served[model].add(version)
    return served
