"""What the fleet says of itself in Redis: which models it serves, and which workers are alive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from mutirao import errors, printable
from mutirao.wire.signature import Signature

FRESH_S = 15.0
# A worker announces itself every 5 s: one that has not, and has no lease, has ended, or stands still.
SILENT_S = 7.5


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model as the workers announce it.

    Attributes:
        name: the model's name.
        version: the active version.
        versions: all versions in the repository.
        runtime: what loads it: sklearn, ...
        signature: what it takes and gives.
        state: ready, or unavailable; judged by the reader: a model that a live worker serves is ready, one that live workers only
            fail at is not.
        reason: why it is unavailable, or what to know of it.
        workers: how many live workers serve it now; counted by the reader.
        speed: rows a second of one worker at full batches, as it was last measured; 0 where it never was.
        digest: of the version's files and of what it takes and gives: copies that are the same have the same.
        variants: what other copies of it take and give, that live workers serve under the same name; gathered by the reader.
        seen_at: when a worker last announced it, by Redis's clock; 0 where that was a worker of an earlier version.
        expected: whether it is to be served: False where there are live workers, and the repositories of all of them lack it; judged
            by the reader.
        example: a row that it takes, the first of the repository's example: each input's values in order, None for one that is
            missing; empty where there is none, or it is large.
    """

    name: str
    version: str
    versions: tuple[str, ...] = ()
    runtime: str = ""
    signature: Signature = Signature(inputs=(), outputs=())
    state: str = "ready"
    reason: str = ""
    workers: int = 0
    speed: float = 0.0
    digest: str = ""
    variants: tuple[Signature, ...] = ()
    seen_at: float = 0.0
    expected: bool = True
    example: dict[str, list[Any]] = {}

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Whatever a live worker takes and gives under its name, what is shown first."""
        return (self.signature, *self.variants)


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker as it announces itself every few seconds.

    Attributes:
        name: Celery's host name of it; where several that live have the same, the reader adds the process to it, before the @.
        pid: its main process.
        processes: how many predictions it runs at once.
        models: the active version of each model it serves, by name.
        rates: requests a second of each model that it answered lately.
        memory_bytes: resident memory of its main process.
        started_at: by its own clock.
        seen_at: when it last announced itself, by Redis's clock.
        identity: by which it holds requests under a lease; empty where the broker's own transport delivers them.
        cores: of its machine that it may use.
        speeds: rows a second of each model that it could answer with full batches, by its fitted times.
        batches: mean rows of its latest batches of each model.
        failing: why it cannot serve a model that it should, by the model's name.
        repository: the models in its repository, also those that it is not to serve; None where that is not known.
        digests: of the copies that it serves, by the models' names.
        variants: what its own copies take and give, of those models of which the catalogue shows another's.
    """

    name: str
    pid: int
    processes: int
    models: dict[str, str]
    rates: dict[str, float] = {}
    memory_bytes: int = 0
    started_at: float = 0.0
    seen_at: float = 0.0
    identity: str = ""
    cores: int = 0
    speeds: dict[str, float] = {}
    batches: dict[str, float] = {}
    failing: dict[str, str] = {}
    repository: tuple[str, ...] | None = None
    digests: dict[str, str] = {}
    variants: dict[str, Signature] = {}

    def alive(self, now: float, leases: Container[bytes]) -> bool:
        """Whether it announced itself within the last 15 s, and its lease runs, if it is to have one.

        Args:
            now: by Redis's clock, in seconds since the epoch.
            leases: the identities of those whose leases run.
        """
        return self.seen(now) and (not self.identity or self.identity.encode() in leases)

    def seen(self, now: float) -> bool:
        """Whether it announced itself within the last 15 s."""
        return now - self.seen_at < FRESH_S


class Registry(msgspec.Struct, frozen=True):
    """The models and the live workers at one moment.

    Attributes:
        models: by name.
        workers: those that live.
        deaf: the names of those that announced themselves lately and have no lease: they were killed a moment ago, or hear nothing.
        gone: the names of those that have no lease and are silent for some seconds: they were killed, or stand still.
    """

    models: dict[str, ModelInfo]
    workers: tuple[WorkerInfo, ...]
    deaf: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def find(self, name: str) -> ModelInfo:
        """Find a model.

        Raises:
            ModelNotFound: no worker has announced it; names those that are.
            ModelUnavailable: it is known, but cannot be loaded.
        """
        info = self.models.get(name)
        if info is None:
            raise not_found(name, tuple(sorted(self.models)))
        if info.state != "ready":
            raise errors.ModelUnavailable(
                f"model {name!r} is unavailable: {info.reason}", model=name, reason=info.reason
            )
        return info

    def served(self, name: str) -> bool:
        """Whether a live worker serves a model."""
        return name in self.models and self.models[name].workers > 0

    def expected(self) -> dict[str, ModelInfo]:
        """Find the models that are to be served, by name: without those that were removed from every live worker's repository."""
        return {name: info for name, info in sorted(self.models.items()) if info.expected}

    def serving(self, name: str) -> tuple[WorkerInfo, ...]:
        """The live workers that serve a model."""
        return tuple(worker for worker in self.workers if name in worker.models)

    def rate(self, name: str) -> float:
        """Requests a second that the live workers answer of a model; 0 where none has said."""
        return sum(worker.rates.get(name, 0.0) for worker in self.workers)

    def speed(self, name: str) -> float:
        """Rows a second of a model that the live workers that serve it could answer with full batches; 0 where none has said."""
        return sum(worker.speeds.get(name, 0.0) for worker in self.serving(name))


def redelivered_after_s(limits: Iterable[float]) -> float:
    """How long a worker lets others hold a request before it gives it away: kombu's visibility timeout.

    A request may wait in a worker for one other, and then run; so it is twice the longest time limit of the models that the
    worker serves, and 30 s; at least 120 s.
    """
    return max(120.0, 2 * max(limits, default=0.0) + 30)


def not_found(name: str, known: tuple[str, ...]) -> errors.ModelNotFound:
    """Build the error for a name that nobody serves, with what to do about it."""
    if known:
        hint = f"models served: {', '.join(known)}; one that was added since the workers started is served when they are restarted"
    else:
        hint = "no worker has announced any model yet; start one with: mutirao worker"
    return errors.ModelNotFound(f"model {name!r} is not served: {hint}", model=name, known=known)


def decode(
    models: Mapping[bytes, bytes], workers: Mapping[bytes, bytes], now: float, leases: Container[bytes]
) -> Registry:
    """Read the catalogue.

    Args:
        models: the hash of models.
        workers: the hash of workers.
        now: by Redis's clock, in seconds since the epoch.
        leases: the identities of those whose leases run.
    """
    announced = [_named_in_text(msgspec.json.decode(raw, type=WorkerInfo)) for raw in workers.values()]
    alive = sorted(_apart(info for info in announced if info.alive(now, leases)), key=lambda worker: worker.name)
    found = {name.decode(): msgspec.json.decode(raw, type=ModelInfo) for name, raw in models.items()}
    unleased = sorted(
        (info.name, now - info.seen_at) for info in announced if info.seen(now) and not info.alive(now, leases)
    )
    deaf = tuple(name for name, silent_s in unleased if silent_s < SILENT_S)
    gone = tuple(name for name, silent_s in unleased if silent_s >= SILENT_S)
    judged = {name: _judged(info, alive) for name, info in found.items()}
    return Registry(models=judged, workers=tuple(alive), deaf=deaf, gone=gone)


def _named_in_text(info: WorkerInfo) -> WorkerInfo:
    """Have a name that was not chosen for people be fit to be shown."""
    return info if info.name.isprintable() else msgspec.structs.replace(info, name=printable.escaped(info.name))


def _has(worker: WorkerInfo, name: str) -> bool:
    return worker.repository is None or name in worker.repository


def _apart(workers: Iterable[WorkerInfo]) -> list[WorkerInfo]:
    """Give those that have one name in Celery names of their own: celery#4711@host."""
    found = list(workers)
    counts = Counter(info.name for info in found)
    return [info if counts[info.name] == 1 else msgspec.structs.replace(info, name=_named(info)) for info in found]


def _named(info: WorkerInfo) -> str:
    node, at, host = info.name.partition("@")
    return f"{node}#{info.pid}{at}{host}"


def _judged(info: ModelInfo, alive: Sequence[WorkerInfo]) -> ModelInfo:
    """Hold what was last announced of a model against what the live workers say of themselves."""
    workers = sum(info.name in worker.models for worker in alive)
    if alive and not workers and not any(_has(worker, info.name) for worker in alive):
        return msgspec.structs.replace(info, state="ready", reason="", workers=0, expected=False)
    failing = [worker.failing[info.name] for worker in alive if info.name in worker.failing]
    others = (worker.variants[info.name] for worker in alive if info.name in worker.variants)
    info = msgspec.structs.replace(
        info, variants=tuple(dict.fromkeys(each for each in others if each != info.signature))
    )
    if workers and info.state != "ready":
        return msgspec.structs.replace(info, state="ready", reason="", workers=workers)
    if failing and not workers:
        return msgspec.structs.replace(info, state="unavailable", reason=failing[0])
    return msgspec.structs.replace(info, workers=workers)
