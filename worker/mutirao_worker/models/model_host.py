"""The models of one worker: where their runtimes allow it loaded once by the parent, before it forks, so that its children share the pages."""

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

# A process may die in a warm-up without the model's fault; hardly twice.
MAX_WARM_UP_DEATHS = 2


class ModelHost:
    """The loaded models by name; of one that could not be loaded, the reason."""

    def __init__(self) -> None:
        self.threads = 1
        self.parent_descriptors: frozenset[int] = frozenset()  # those that were open when it last forked
        self.model_descriptors: frozenset[int] = frozenset()  # those among them that models hold
        self.leak_detector: isolation.LeakDetector | None = None  # of this process, once it is ready to serve
        self.warm_up_s = 60.0
        self._warm_up_deaths: collections.Counter[str] = collections.Counter()
        self._disabled: dict[str, str] = {}  # by the name of a model that no process warms up or runs any more: why
        self._loaded: dict[str, LoadedModel] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._warm_ups = WarmupState(())

    def load(self, repository: Repository, names: Iterable[str]) -> None:
        """Load models, each tried in a throwaway process before; one that fails does not stop the others."""
        for name in names:
            try:
                loaded = repository.load(name, trial=True)
            except errors.MutiraoError as exc:
                logger.error("model %s is unavailable: %s", name, exc)  # noqa: TRY400 - the sentence says it
                self._infos[name] = repository.unavailable(name, exc)
            else:
                self._loaded[name], self._infos[name] = loaded, loaded.info
        self._warm_ups = WarmupState(self._loaded)
        # What is loaded now lives as long as the process: the collector need not touch, and so copy, its pages in the children.
        gc.collect()
        gc.freeze()

    def find(self, name: str) -> LoadedModel:
        """Return a loaded model.

        Raises:
            ModelNotFound: this worker does not serve it.
            ModelUnavailable: it could not be loaded, or not warmed up.
        """
        if name in self._loaded and name not in self._disabled:
            return self._loaded[name]
        if name in self._infos:
            reason = self.failure(name)
            raise errors.ModelUnavailable(f"model {name!r} is unavailable: {reason}", model=name, reason=reason)
        raise registry.model_not_found(name, tuple(sorted(self._infos)))

    def infos(self) -> tuple[ModelInfo, ...]:
        """Describe every model, loaded or not; one that failed its warm-up is unavailable."""
        return tuple(self._model_info(name) for name in sorted(self._infos))

    def failure(self, name: str) -> str:
        """Return why this worker cannot serve a model; "" where it can, or where its warm-up has yet to end."""
        if name in self._disabled:
            return self._disabled[name]
        if name in self._loaded:
            failure = self._warm_ups.failure(name)
            return f"its warm-up failed: {failure}" if failure else ""
        return self._infos[name].reason if name in self._infos else ""

    def failures(self) -> dict[str, str]:
        """Return the models that this worker cannot serve, and why."""
        return {name: reason for name in self._infos if (reason := self.failure(name))}

    def warm_versions(self) -> dict[str, str]:
        """Return the versions of the models that are loaded and warmed up, by name."""
        return {name: loaded.info.version for name, loaded in self._loaded.items() if self._warm_up_failure(name) == ""}

    @property
    def warmed_or_failed(self) -> bool:
        """Whether every loaded model is warm, or has failed its warm-up."""
        return all(self._warm_up_failure(name) is not None for name in self._loaded)

    def time_limits(self, name: str) -> tuple[float | None, float | None]:
        """Return a model's hard and soft time limits in seconds, None for none."""
        if name not in self._loaded:
            return None, None
        manifest = self._loaded[name].manifest
        return manifest.time_limit_s, manifest.soft_time_limit_s

    def batch_limits(self, name: str) -> BatchLimits:
        """Return a model's limits for batches."""
        return self._loaded[name].manifest.batch_limits if name in self._loaded else BatchLimits()

    def max_attempts(self, name: str) -> int:
        """Return how often a request of a model may be running when its process dies."""
        return self._loaded[name].manifest.max_attempts if name in self._loaded else 1

    def version(self, name: str) -> str:
        """Return the version of a model that is served; "" where it is not served."""
        return self._infos[name].version if name in self._infos else ""

    def digest(self, name: str) -> str:
        """Return the digest of this worker's copy of a model; "" where it has none."""
        return self._infos[name].digest if name in self._infos else ""

    def warm_up(self, process_index: int) -> None:
        """Run every model once on its own example, with its share of threads; log a failure, and record it for the parent of this process.

        Args:
            process_index: this process's number in its pool.
        """
        native_threads.cap(self.threads)
        for name, loaded in self._loaded.items():
            if name in self._disabled:
                continue
            self._warm_ups.start(name, process_index)
            try:
                with isolation.preserved_process_state():
                    loaded.set_threads(self.threads)
                    loaded.warm_up()
            except Exception as exc:
                logger.exception("model %s failed its warm-up", name)
                self._warm_ups.record(name, f"{type(exc).__name__}: {exc}")
            else:
                self._warm_ups.record(name)
        self._warm_ups.finish(process_index)

    def check_warm_ups(self) -> None:
        """End processes that hang in a warm-up; disable a model whose warm-up hangs, or has ended two processes.

        The parent calls this twice a second, and before it forks: a new process must not repeat what ended the one before it.
        """
        for warm_up in self._warm_ups.in_progress():
            if warm_up.elapsed_s > self.warm_up_s:
                os.kill(warm_up.pid, signal.SIGKILL)
                self._disable(warm_up.model, f"its warm-up did not end within {self.warm_up_s:g} s (MUTIRAO_WARM_UP_S)")
            elif not _is_alive(warm_up.pid):
                self._warm_up_deaths[warm_up.model] += 1
                if self._warm_up_deaths[warm_up.model] >= MAX_WARM_UP_DEATHS:
                    self._disable(warm_up.model, f"its warm-up ended its process, {MAX_WARM_UP_DEATHS} times")
            else:
                continue
            self._warm_ups.finish(warm_up.process_index)

    def _disable(self, name: str, reason: str) -> None:
        logger.error("model %s is unavailable until this worker starts again: %s", name, reason)
        self._disabled[name] = reason

    def _warm_up_failure(self, name: str) -> str | None:
        return self._disabled.get(name) or self._warm_ups.failure(name)

    def _model_info(self, name: str) -> ModelInfo:
        info, reason = self._infos[name], self.failure(name)
        return msgspec.structs.replace(info, state="unavailable", reason=reason) if reason else info


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
