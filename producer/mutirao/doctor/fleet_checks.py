"""Checks of workers, models and queues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from mutirao.doctor.finding import Finding, hidden, listed
from mutirao.doctor.snapshot import Snapshot
from mutirao.registry import Registry

START = "start one with mutirao worker"


def findings(seen: Snapshot) -> Iterator[Finding]:
    """Run every check."""
    for check in CHECKS:
        yield check(seen)


def workers(seen: Snapshot) -> Finding:
    """At least one is alive."""
    if seen.catalog is None:
        return hidden("workers", "HGETALL mutirao:workers")
    alive = seen.catalog.workers
    if not alive:
        return Finding(
            "workers",
            "problem",
            "none has announced itself in the last 15 s",
            f"{START}; if one runs, look into its log",
        )
    total = sum(worker.processes for worker in alive)
    names = listed(worker.name for worker in alive)
    return Finding(
        "workers", "ok", f"{len(alive)} alive, {total} prediction{'' if total == 1 else 's'} at once: {names}"
    )


def deaf(seen: Snapshot) -> Finding:
    """Each worker that announces itself takes requests."""
    if seen.catalog is None:
        return hidden("leases", "ZRANGEBYSCORE mutirao:leases")
    if seen.catalog.unleased:
        return Finding(
            "leases",
            "warning",
            f"announced a moment ago, but without a lease, so that nothing is taken: {listed(seen.catalog.unleased)}",
            "killed a moment ago, or it does not hear Redis: then its log says why; restart it if it does not come back by itself",
        )
    if seen.catalog.silent:
        return Finding(
            "leases",
            "warning",
            f"gone: {listed(seen.catalog.silent)} (silent, and the lease is over; what was taken is put back for others)",
            "killed, or it stands still: start it again if it is wanted; this is said for 15 s after it was last heard",
        )
    return Finding("leases", "ok", "every worker that announces itself takes requests")


def models(seen: Snapshot) -> Finding:
    """Each model that was announced can be asked."""
    if seen.catalog is None:
        return hidden("models", "HGETALL mutirao:models")
    known = seen.catalog.expected()
    if not known:
        return Finding(
            "models", "warning", "none has been announced", f"add one with mutirao models add NAME FILE, and {START}"
        )
    if broken := [f"{name} ({info.reason})" for name, info in known.items() if info.state != "ready"]:
        return Finding(
            "models",
            "problem",
            f"unavailable: {listed(broken)}",
            "mutirao models verify says more; then restart the workers",
        )
    if unserved := [name for name in known if not seen.catalog.serving(name)]:
        return Finding(
            "models", "warning", f"no live worker serves {listed(unserved)}", f"{START}; what is asked of them waits"
        )
    if noted := [f"{name} ({info.reason})" for name, info in known.items() if info.reason]:
        return Finding(
            "models", "warning", f"served, but: {listed(noted)}", "save the model again with the library that serves it"
        )
    left = sorted(seen.catalog.models.keys() - known.keys())
    rest = f"; in no live worker's repository: {listed(left)} (mutirao models forget {left[0]})" if left else ""
    return Finding("models", "ok", f"{len(known)} served: {listed(known)}{rest}")


def failures(seen: Snapshot) -> Finding:
    """Each worker serves what it should, where others do."""
    if seen.catalog is None:
        return hidden("failures", "HGETALL mutirao:workers")
    failing = [
        f"{name} on {worker.name} ({reason})"
        for worker in seen.catalog.workers
        for name, reason in sorted(worker.failing.items())
        if seen.catalog.serving(name)
    ]
    if failing:
        return Finding(
            "failures",
            "warning",
            f"served by others, but not by every worker: {listed(failing)}",
            "mutirao models verify on that machine says more; then restart that worker",
        )
    return Finding("failures", "ok", "no worker fails at what others serve")


def versions(seen: Snapshot) -> Finding:
    """All workers serve the same version of a model."""
    if seen.catalog is None:
        return hidden("versions", "HGETALL mutirao:workers")
    if split := [
        f"{model} ({', '.join(sorted(found))})" for model, found in _versions(seen.catalog).items() if len(found) > 1
    ]:
        return Finding(
            "versions",
            "warning",
            f"workers serve different versions of {listed(split)}",
            "restart the workers that started before the change",
        )
    if copies := [f"{model} version {version} ({hosts})" for model, version, hosts in _copies(seen.catalog)]:
        return Finding(
            "versions",
            "warning",
            f"workers serve differing copies of {listed(copies)}",
            "make their repositories the same (or add the change as a new version), and restart their workers",
        )
    return Finding("versions", "ok", "each model is served in one version, from the same files")


def waiting(seen: Snapshot) -> Finding:
    """Nothing waits where nobody takes it."""
    if seen.given.uses_amqp:
        return Finding("queues", "ok", "not to be seen from here: the broker is no Redis, ask it itself")
    if seen.waiting is None:
        return hidden("queues", "LLEN mutirao.*")
    queued = {model: count for model, count in seen.waiting.items() if count}
    shown = listed(f"{model} {count}" for model, count in queued.items())
    left = [model for model in queued if not (seen.catalog and seen.catalog.serving(model))]
    if left and seen.catalog is not None:
        text = f"waiting: {shown}; no live worker serves {listed(left)}"
        return Finding(
            "queues",
            "problem",
            text,
            f"mutirao worker --only {','.join(left)}; one that is in no repository must be added first",
        )
    return Finding("queues", "ok", f"waiting: {shown}" if shown else "nothing waits")


def reserved(seen: Snapshot) -> Finding:
    """What workers have taken is in the hands of one that lives."""
    if seen.reserved is None:
        return hidden("taken", "SCAN")
    text = f"{seen.reserved} taken by workers and not yet answered"
    if seen.reserved and seen.catalog is not None and not seen.catalog.workers:
        return Finding(
            "taken",
            "warning",
            f"{text}, but no worker is alive",
            f"{START}: it takes them over at once",
        )
    return Finding("taken", "ok", text)


def vanished(seen: Snapshot) -> Finding:
    """Each queued job's request waits somewhere, or is in a worker's hands."""
    if seen.given.uses_amqp:
        return Finding("queued jobs", "ok", "not looked for: only Redis says who has a request")
    if seen.orphans is None:
        return hidden("queued jobs", "SCAN, GETRANGE celery-task-meta-*")
    found = seen.orphans
    most = "" if found.whole else f" (not all were looked for, of {found.looked_at:,} records)"
    if not found.ids:
        return Finding("queued jobs", "ok", f"each waits in its queue, or is taken{most}")
    return Finding(
        "queued jobs",
        "warning",
        f"{len(found.ids)} say queued, but are in no queue, and no worker has them: {listed(found.ids)}{most}",
        "their queue was emptied by another program, or by hand: submit them again under the same ids, or mutirao cancel ID",
    )


def dead(seen: Snapshot) -> Finding:
    """Nothing had to be given up."""
    if seen.dead is None:
        return hidden("dead letters", "HLEN mutirao:dead")
    if seen.dead:
        return Finding(
            "dead letters",
            "warning",
            f"{seen.dead} request{'s were' if seen.dead > 1 else ' was'} given up",
            "mutirao dead list says why",
        )
    return Finding("dead letters", "ok", "none")


def closed(seen: Snapshot) -> Finding:
    """Where there are API keys, one is good."""
    if seen.closed is None:
        return hidden("keys", "HGETALL mutirao:keys")
    if seen.closed:
        state, _, remedy = seen.closed.partition(": ")
        return Finding("keys", "warning", state, remedy)
    return Finding("keys", "ok", "a good one, or none: a gateway is then open to its machine from its next start")


def undelivered_webhooks(seen: Snapshot) -> Finding:
    """Whoever wants to hear of a job's end is told."""
    if seen.untold is None:
        return hidden("webhooks", "LLEN mutirao:webhooks")
    if seen.untold:
        text = f"{seen.untold} ends of jobs wait to be told, and nobody calls their webhooks"
        return Finding("webhooks", "warning", text, "start one with mutirao webhooks")
    return Finding("webhooks", "ok", "nothing waits to be told")


def foreign(seen: Snapshot) -> Finding:
    """No other Celery application shares the database."""
    if seen.foreign is None:
        return hidden("neighbours", "SCAN")
    if not seen.foreign:
        return Finding("neighbours", "ok", "no other Celery application uses this database")
    text = f"another Celery application uses this database (queues {listed(seen.foreign)}): commands and events of either reach the workers of both"
    return Finding(
        "neighbours", "warning", text, "give mutirão a database of its own, such as /1 at the end of MUTIRAO_BROKER_URL"
    )


CHECKS: tuple[Callable[[Snapshot], Finding], ...] = (
    workers,
    deaf,
    models,
    failures,
    versions,
    waiting,
    reserved,
    vanished,
    dead,
    closed,
    undelivered_webhooks,
    foreign,
)


def _copies(catalog: Registry) -> Iterator[tuple[str, str, str]]:
    """Find models of which workers serve differing copies under one version: model, version, and the workers by their copies."""
    for model in sorted(catalog.models):
        found = defaultdict(list)
        for worker in catalog.serving(model):
            if model in worker.digests:
                found[worker.digests[model]].append(worker.name)
        if len(found) > 1:
            version = catalog.serving(model)[0].models[model]
            yield model, version, " against ".join(", ".join(sorted(names)) for names in sorted(found.values()))


def _versions(catalog: Registry) -> dict[str, set[str]]:
    found = defaultdict(set)
    for worker in catalog.workers:
        for model, version in worker.models.items():
            found[model].add(version)
    return found
