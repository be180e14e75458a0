"""Which models this process holds: loaded once by the parent, before it forks, so that its children share the pages."""

from __future__ import annotations

import collections
import gc
import logging
import os
import signal
from collections.abc import Iterable

import msgspec

from mutirao import errors, registry
from mutirao.registry import ModelInfo
from mutirao_worker.models.loaded_model import LoadedModel
from mutirao_worker.models.manifest import BatchLimits
from mutirao_worker.models.repository import Repository
from mutirao_worker.models.warmup_state import WarmupState
from mutirao_worker.process import isolation, native_threads

logger = logging.getLogger(__name__)

# A process may die in a warm-up for a reason of somebody else's; hardly twice.
DEATHS = 2


class ModelHost:
    """The models of one worker, by name; one that could not be loaded keeps its reason."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.threads = 1
        self.parent_descriptors: frozenset[int] = frozenset()  # those that were open when it last forked
        self.model_descriptors: frozenset[int] = frozenset()  # those among them that models hold
        self.leak_detector: isolation.LeakDetector | None = None  # of this process, once it is ready to serve
        self.warm_up_s = 60.0
        self._deaths: collections.Counter[str] = collections.Counter()
        self._refused: dict[str, str] = {}  # models that no process tries any more
        self._loaded: dict[str, LoadedModel] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._limits: dict[str, tuple[float | None, float | None]] = {}
        self._warmth = WarmupState(())

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
        self._warmth = WarmupState(self._loaded)
        # What is loaded now lives as long as the process: the collector need not touch, and so copy, its pages in the children.
        gc.collect()
        gc.freeze()

    def find(self, name: str) -> LoadedModel:
        """Find a loaded model.

        Raises:
            ModelNotFound: this worker does not serve it.
            ModelUnavailable: it could not be loaded, or not warmed up.
        """
        if name in self._loaded and name not in self._refused:
            return self._loaded[name]
        if name in self._infos:
            reason = self._refused.get(name) or self._infos[name].reason
            raise errors.ModelUnavailable(f"model {name!r} is unavailable: {reason}", model=name, reason=reason)
        raise registry.model_not_found(name, tuple(sorted(self._infos)))

    def infos(self) -> tuple[ModelInfo, ...]:
        """Describe every model, loaded or not; one that failed its warm-up is unavailable."""
        return tuple(self._info(name) for name in sorted(self._infos))

    def warm(self) -> dict[str, str]:
        """The models that are loaded and warmed up, with their versions."""
        return {name: loaded.info.version for name, loaded in self._loaded.items() if self._failure(name) == ""}

    @property
    def tried(self) -> bool:
        """Whether every model that is loaded has been warmed up, or has failed at it."""
        return all(self._failure(name) is not None for name in self._loaded)

    def time_limits(self, name: str | None) -> tuple[float | None, float | None]:
        """A model's hard and soft time limits in seconds, None for none."""
        return self._limits.get(name or "", (None, None))

    def batch_limits(self, name: str) -> BatchLimits:
        """A model's limits for batches."""
        return self._loaded[name].manifest.batch_limits if name in self._loaded else BatchLimits()

    def max_attempts(self, name: str) -> int:
        """How often a request of a model may be running when its process dies."""
        return self._loaded[name].manifest.max_attempts if name in self._loaded else 1

    def version(self, name: str) -> str:
        """The version of a model that is served; "" where it is not."""
        return self._infos[name].version if name in self._infos else ""

    def digest(self, name: str) -> str:
        """The digest of this worker's copy of a model; "" where it has none."""
        return self._infos[name].digest if name in self._infos else ""

    def hard_limits(self) -> tuple[float, ...]:
        """Every model's hard time limit, in seconds."""
        return tuple(hard for hard, _ in self._limits.values() if hard)

    def cap_threads(self) -> None:
        """Cap native thread pools and joblib in this process."""
        native_threads.cap(self.threads)
        for loaded in self._loaded.values():
            loaded.set_threads(self.threads)

    def warm_up(self, number: int) -> None:
        """Run every model once on its own example; one that fails says so in the log, and to the parent of this process.

        Args:
            number: of this process in its pool.
        """
        for name, loaded in self._loaded.items():
            if name in self._refused:
                continue
            self._warmth.begin(name, number)
            try:
                with isolation.preserved_process_state():
                    loaded.warm_up()
            except Exception as exc:
                logger.exception("model %s failed its warm-up", name)
                self._warmth.tell(name, f"{type(exc).__name__}: {exc}")
            else:
                self._warmth.tell(name)
        self._warmth.done(number)

    def look_after_warm_ups(self) -> None:
        """End processes that hang in a warm-up; a model at which one hangs, or of which two have died, is tried no more.

        The parent calls this now and then, and before it forks: so a new process does not try what has cost its forerunner.
        """
        for each in self._warmth.warming():
            if each.for_s > self.warm_up_s:
                os.kill(each.pid, signal.SIGKILL)
                self._refuse(each.model, f"its warm-up did not end within {self.warm_up_s:g} s (MUTIRAO_WARM_UP_S)")
            elif not _runs(each.pid):
                self._deaths[each.model] += 1
                if self._deaths[each.model] >= DEATHS:
                    self._refuse(each.model, f"its warm-up ended its process, {DEATHS} times")
            else:
                continue
            self._warmth.done(each.number)

    def _refuse(self, name: str, reason: str) -> None:
        logger.error("model %s is unavailable until this worker starts again: %s", name, reason)
        self._refused[name] = reason

    def _failure(self, name: str) -> str | None:
        return self._refused.get(name) or self._warmth.failure(name)

    def _info(self, name: str) -> ModelInfo:
        info = self._infos[name]
        if name in self._refused:
            return msgspec.structs.replace(info, state="unavailable", reason=self._refused[name])
        failure = self._warmth.failure(name) if name in self._loaded else None
        if not failure:
            return info
        return msgspec.structs.replace(info, state="unavailable", reason=f"its warm-up failed: {failure}")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
