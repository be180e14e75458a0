"""Which models this process holds: loaded once by the parent, before it forks, so that its children share the pages."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterable

import msgspec
import threadpoolctl

from mutirao import catalog, errors
from mutirao.catalog import ModelInfo
from mutirao_worker.batching import Limits
from mutirao_worker.loaded import Loaded
from mutirao_worker.repository import Repository
from mutirao_worker.warmth import Warmth

logger = logging.getLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Host:
    """The models of one worker, by name; one that could not be loaded keeps its reason."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.threads = 1
        self._loaded: dict[str, Loaded] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._limits: dict[str, tuple[float | None, float | None]] = {}
        self._warmth = Warmth(())

    def load(self, repository: Repository, names: Iterable[str]) -> None:
        """Load models; one that fails does not stop the others."""
        for name in names:
            try:
                loaded = repository.load(name)
            except errors.MutiraoError as exc:
                logger.error("model %s is unavailable: %s", name, exc)  # noqa: TRY400 - the sentence says it
                self._infos[name] = repository.unavailable(name, exc)
            else:
                self._loaded[name], self._infos[name] = loaded, loaded.info
                self._limits[name] = (loaded.manifest.time_limit_s, loaded.manifest.soft_time_limit_s)
        self._warmth = Warmth(self._loaded)
        # What is loaded now lives as long as the process: the collector need not touch, and so copy, its pages in the children.
        gc.collect()
        gc.freeze()

    def find(self, name: str) -> Loaded:
        """Find a loaded model.

        Raises:
            ModelNotFound: this worker does not serve it.
            ModelUnavailable: it could not be loaded.
        """
        if name in self._loaded:
            return self._loaded[name]
        if name in self._infos:
            reason = self._infos[name].reason
            raise errors.ModelUnavailable(f"model {name!r} is unavailable: {reason}", model=name, reason=reason)
        raise catalog.not_found(name, tuple(sorted(self._infos)))

    def infos(self) -> tuple[ModelInfo, ...]:
        """Describe every model, loaded or not; one that failed its warm-up is unavailable."""
        return tuple(self._info(name) for name in sorted(self._infos))

    def warm(self) -> dict[str, str]:
        """The models that are loaded and warmed up, with their versions."""
        return {name: loaded.info.version for name, loaded in self._loaded.items() if self._warmth.failure(name) == ""}

    @property
    def tried(self) -> bool:
        """Whether every model that is loaded has been warmed up, or has failed at it."""
        return all(self._warmth.failure(name) is not None for name in self._loaded)

    def time_limits(self, name: str | None) -> tuple[float | None, float | None]:
        """A model's hard and soft time limits in seconds, None for none."""
        return self._limits.get(name or "", (None, None))

    def batching(self, name: str) -> Limits:
        """A model's limits for batches."""
        manifest = self._loaded[name].manifest if name in self._loaded else None
        if manifest is None:
            return Limits()
        return Limits(
            max_rows=manifest.max_batch_rows,
            max_bytes=manifest.max_batch_bytes,
            max_wait_s=manifest.max_wait_ms / 1000,
            latency_s=manifest.latency_target_ms / 1000,
        )

    def max_attempts(self, name: str) -> int:
        """How often a request of a model may be running when its process dies."""
        return self._loaded[name].manifest.max_attempts if name in self._loaded else 1

    def version(self, name: str) -> str:
        """The version of a model that is served; "" where it is not."""
        return self._infos[name].version if name in self._infos else ""

    def hard_limits(self) -> tuple[float, ...]:
        """Every model's hard time limit, in seconds."""
        return tuple(hard for hard, _ in self._limits.values() if hard)

    def cap_threads(self) -> None:
        """Cap native thread pools and joblib in this process."""
        threadpoolctl.threadpool_limits(self.threads)
        for loaded in self._loaded.values():
            loaded.set_threads(self.threads)

    def warm_up(self) -> None:
        """Run every model once on its own example; one that fails says so in the log, and to the parent of this process."""
        for name, loaded in self._loaded.items():
            try:
                loaded.warm_up()
            except Exception as exc:
                logger.exception("model %s failed its warm-up", name)
                self._warmth.tell(name, f"{type(exc).__name__}: {exc}")
            else:
                self._warmth.tell(name)

    def _info(self, name: str) -> ModelInfo:
        info = self._infos[name]
        failure = self._warmth.failure(name) if name in self._loaded else None
        if not failure:
            return info
        return msgspec.structs.replace(info, state="unavailable", reason=f"its warm-up failed: {failure}")


def threads_per_process(processes: int) -> int:
    """Share the cores: processes x threads = cores, at least one thread each."""
    return max(1, cores() // max(1, processes))


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
