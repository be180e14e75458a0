"""The registry in Redis: which models the workers announce from their repositories, and which workers are alive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from mutirao import errors, printable
from mutirao.wire.signature import Signature

FRESH_S = 15.0
# A worker announces itself every 5 s: one that has not, and has no lease, has ended or is stopped.
SILENT_S = 7.5


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model as the workers announce it.

    Attributes:
        name: the model's name.
        version: the active version.
        versions: all versions in the repository.
        runtime: what loads it: sklearn, ...
        signature: what it takes and gives.
        state: ready, or unavailable. The reader decides: a model is ready where a live worker serves it, and unavailable where live
            workers only fail to load it.
        reason: why it is unavailable, or a remark.
        workers: how many live workers serve it now; counted by the reader.
        speed: rows a second of one worker at full batches, as it was last measured; 0 where it never was.
        digest: of the version's files and signature: equal copies have equal digests.
        variants: the signatures of other copies that live workers serve under the same name; gathered by the reader.
        seen_at: when a worker last announced it, by Redis's clock; 0 where that was a worker of an earlier version.
        expected: whether it should be served: False where there are live workers and none has it in its repository; decided by the
            reader.
        example: the first row of the repository's example: each input's values in order, None for a missing value; empty where
            there is no example, or it is large.
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
        """The signatures of all copies that live workers serve under its name, the announced one first."""
        return (self.signature, *self.variants)


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker as it announces itself every few seconds.

    Attributes:
        name: its Celery host name; where several live workers share one, the reader adds the process id before the @.
        pid: its main process; 0 where a gateway shows the worker.
        processes: how many predictions it runs at once.
        models: the active version of each model it serves, by name.
        rates: requests a second that it answered lately, by model.
        memory_bytes: resident memory of its main process.
        started_at: by its own clock.
        seen_at: when it last announced itself, by Redis's clock.
        identity: the name under which it leases requests; empty where the broker's own transport delivers them.
        cores: the cores of its machine that it may use.
        speeds: rows a second that it could answer with full batches, by model, from its fitted service times.
        batches: mean rows of its latest batches, by model.
        failing: why it cannot serve a model that it should, by model.
        repository: the models in its repository, also those that it does not serve; None where that is not known.
        digests: of the copies that it serves, by model.
        variants: the signatures of its own copies where the registry shows another worker's, by model.
    """

    name: str
    pid: int = 0
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
        """Return whether it announced itself within the last 15 s, and its lease runs if it needs one.

        Args:
            now: by Redis's clock, in seconds since the epoch.
            leases: the identities whose leases run.
        """
        return self.seen(now) and (not self.identity or self.identity.encode() in leases)

    def seen(self, now: float) -> bool:
        """Return whether it announced itself within the last 15 s."""
        return now - self.seen_at < FRESH_S


class Registry(msgspec.Struct, frozen=True):
    """The models and the live workers at one moment.

    Attributes:
        models: by name.
        workers: the live ones.
        unleased: the names of workers that announced themselves lately and have no lease: killed a moment ago, or cut off from Redis.
        silent: the names of workers without a lease that have been silent for some seconds: killed, or stopped.
    """

    models: dict[str, ModelInfo]
    workers: tuple[WorkerInfo, ...]
    unleased: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def find(self, name: str) -> ModelInfo:
        """Return a model.

        Raises:
            ModelNotFound: no worker has announced it; the message names the models that are.
            ModelUnavailable: it is announced, but cannot be loaded.
        """
        info = self.models.get(name)
        if info is None:
            raise model_not_found(name, tuple(sorted(self.models)))
        if info.state != "ready":
            raise errors.ModelUnavailable(
                f"model {name!r} is unavailable: {info.reason}", model=name, reason=info.reason
            )
        return info

    def is_served(self, name: str) -> bool:
        """Return whether a live worker serves a model."""
        return name in self.models and self.models[name].workers > 0

    def expected(self) -> dict[str, ModelInfo]:
        """Return the models that should be served, by name: without those that every live worker's repository lacks."""
        return {name: info for name, info in sorted(self.models.items()) if info.expected}

    def serving(self, name: str) -> tuple[WorkerInfo, ...]:
        """Return the live workers that serve a model."""
        return tuple(worker for worker in self.workers if name in worker.models)

    def failures(self, name: str) -> tuple[str, ...]:
        """Return why live workers cannot serve a model, each reason once."""
        return tuple(dict.fromkeys(worker.failing[name] for worker in self.workers if name in worker.failing))

    def rate(self, name: str) -> float:
        """Return the requests a second of a model that live workers answer; 0 where none has announced a rate."""
        return sum(worker.rates.get(name, 0.0) for worker in self.workers)

    def speed(self, name: str) -> float:
        """Return the rows a second that the workers of a model could answer with full batches; 0 where none has announced a speed."""
        return sum(worker.speeds.get(name, 0.0) for worker in self.serving(name))


def model_not_found(name: str, known: tuple[str, ...]) -> errors.ModelNotFound:
    """Return the error for a name that no worker serves, with the remedy."""
    if known:
        hint = f"models served: {', '.join(known)}; one that was added since the workers started is served when they are restarted"
    else:
        hint = "no worker has announced any model yet; start one with: mutirao worker"
    return errors.ModelNotFound(f"model {name!r} is not served: {hint}", model=name, known=known)


def decode_registry(
    models: Mapping[bytes, bytes], workers: Mapping[bytes, bytes], now: float, leases: Container[bytes]
) -> Registry:
    """Decode what workers have announced.

    Args:
        models: the hash of models.
        workers: the hash of workers.
        now: by Redis's clock, in seconds since the epoch.
        leases: the identities whose leases run.
    """
    announced = [_with_printable_name(msgspec.json.decode(raw, type=WorkerInfo)) for raw in workers.values()]
    alive = sorted(
        _with_unique_names(info for info in announced if info.alive(now, leases)), key=lambda worker: worker.name
    )
    announced_models = {name.decode(): msgspec.json.decode(raw, type=ModelInfo) for name, raw in models.items()}
    without_lease = sorted(
        (info.name, now - info.seen_at) for info in announced if info.seen(now) and not info.alive(now, leases)
    )
    unleased = tuple(name for name, silent_s in without_lease if silent_s < SILENT_S)
    silent = tuple(name for name, silent_s in without_lease if silent_s >= SILENT_S)
    with_state = {name: _with_fleet_state(info, alive) for name, info in announced_models.items()}
    return Registry(models=with_state, workers=tuple(alive), unleased=unleased, silent=silent)


def _with_printable_name(info: WorkerInfo) -> WorkerInfo:
    """Escape a name that cannot be printed."""
    return info if info.name.isprintable() else msgspec.structs.replace(info, name=printable.escaped(info.name))


def _has_model(worker: WorkerInfo, name: str) -> bool:
    return worker.repository is None or name in worker.repository


def _with_unique_names(workers: Iterable[WorkerInfo]) -> list[WorkerInfo]:
    """Rename workers that share a Celery host name, by their process id: celery#4711@host."""
    infos = list(workers)
    counts = Counter(info.name for info in infos)
    return [
        info if counts[info.name] == 1 else msgspec.structs.replace(info, name=_unique_name(info)) for info in infos
    ]


def _unique_name(info: WorkerInfo) -> str:
    node, at, host = info.name.partition("@")
    return f"{node}#{info.pid}{at}{host}"


def _with_fleet_state(info: ModelInfo, alive: Sequence[WorkerInfo]) -> ModelInfo:
    """Return an announced model with the state that the live workers give it."""
    workers = sum(info.name in worker.models for worker in alive)
    if alive and not workers and not any(_has_model(worker, info.name) for worker in alive):
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
