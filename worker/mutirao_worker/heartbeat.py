"""A worker's heartbeat: it announces itself from its own loop, so a loop that hangs or has lost Redis falls silent."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import psutil
import redis
from celery import bootsteps

from mutirao import errors, keyspace
from mutirao.redisdb.scripts import SCRIPTS
from mutirao.registry import ModelInfo, WorkerInfo
from mutirao_worker.engine.script_client import connect, warn_once
from mutirao_worker.models.repository import Repository
from mutirao_worker.process.native_threads import cores

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
# The worker's loop stands still meanwhile: what cannot be sent soon is sent the next time.
TIMEOUT_S = 2.0
# A change of what the worker serves is announced at once: a model that is warm, a queue that is consumed no more.
CHECK_INTERVAL_S = 0.25
# A model's folder appears a little before its manifest.
FOLDER_SETTLE_S = 10.0
# After this, a model that no worker announces leaves the registry; see withdraw_model.lua.
STALE_MODEL_S = 86_400.0
_PROCESS = f"{os.getpid()}.{secrets.token_hex(4)}"


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Announces the worker every 5 s while it consumes, and at once when what it serves changes."""

    requires = ("mutirao_worker.celery_adapter.engine_step:EngineStep",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._timers: list[Any] = []
        self._served_versions: dict[str, str] | None = None  # as last announced
        self._speeds: dict[str, float] = {}  # as last known, measured by any worker
        self._announced_at = 0.0
        self._is_hooked = False
        self._client: redis.Redis | None = None
        self._last_error = ""  # why the last announcement failed, as logged
        self._heartbeat_script: Any = None
        self._withdraw_script: Any = None
        self._registered: dict[str, ModelInfo] = {}  # each model as the registry shows it
        self._repository: Repository
        self._model_names: tuple[str, ...] | None = None  # the repository's models
        self._folder_changed_at = -1
        self._started_at = time.time()
        self._request_counts: dict[str, int] = {}
        self._counted_at = time.monotonic()

    def start(self, consumer: Any) -> None:
        """Start to announce the worker."""
        settings = consumer.app.conf.mutirao
        # Where the broker is not Redis, announcements are where results are.
        url = settings.result_url if settings.uses_amqp else settings.broker_url
        self._client = connect(url, settings, min(TIMEOUT_S, settings.timeout_s))
        self._heartbeat_script = self._client.register_script(SCRIPTS["heartbeat"])
        self._withdraw_script = self._client.register_script(SCRIPTS["withdraw_model"])
        self._repository = Repository(settings.models)
        self._served_versions = None
        if not self._is_hooked:
            self._is_hooked = True
            consumer.engine.dispatcher.records.results.meanwhile.append(lambda: self._announce_if_due(consumer))
        self._timers = [
            consumer.timer.call_repeatedly(INTERVAL_S, self._announce, (consumer,)),
            consumer.timer.call_repeatedly(CHECK_INTERVAL_S, self._announce_changes, (consumer,)),
        ]

    def stop(self, consumer: Any) -> None:
        """Take the announcement back: others need not wait to see that this worker is gone."""
        for timer in self._timers:
            timer.cancel()
        if self._client is None:
            return
        if consumer.connection is not None:
            try:
                self._client.hdel(keyspace.WORKERS, _unique_name(consumer))
            except redis.RedisError as exc:
                logger.debug("could not take the announcement back: %s", exc)
        self._client.close()

    def _announce_changes(self, consumer: Any) -> None:
        """Announce changes; a starting worker is announced once it consumes and has warmed up all its models, or after 5 s."""
        if self._served_versions is None and not consumer.app.host.warmed_or_failed:
            return
        served, folder_changed_at = _served_versions(consumer), _changed_at(self._repository)
        if served != self._served_versions or folder_changed_at != self._folder_changed_at:
            self._announce(consumer)

    def _announce_if_due(self, consumer: Any) -> None:
        """Announce in the midst of a long commit, when it is due: that is work, not a loop that hangs."""
        if time.monotonic() - self._announced_at >= INTERVAL_S:
            self._announce(consumer)

    def _announce(self, consumer: Any) -> None:
        self._announced_at = time.monotonic()
        removed, engine = self._refresh_model_names(), consumer.engine
        infos = [
            info for info in consumer.app.host.infos() if self._model_names is None or info.name in self._model_names
        ]
        processes = consumer.pool.num_processes if consumer.pool else 1
        batcher = engine.dispatcher.batcher
        speeds, batches = _rounded(batcher.speeds(processes)), _rounded(batcher.mean_batch_rows())
        self._served_versions = _served_versions(consumer)
        try:
            stale = self._read_registry()
        except redis.RedisError as exc:
            self._last_error = warn_once(logger, "could not announce this worker", exc, self._last_error)
            return
        self._speeds |= speeds
        worker = WorkerInfo(
            name=consumer.hostname,
            pid=os.getpid(),
            processes=processes,
            models=self._served_versions,
            memory_bytes=psutil.Process().memory_info().rss,
            started_at=self._started_at,
            rates=self._rates(consumer),
            identity=engine.leases.identity if engine.leases is not None else "",
            cores=cores(),
            speeds=speeds,
            batches=batches,
            failing={info.name: info.reason for info in infos if info.state != "ready"},
            repository=self._model_names,
            digests={info.name: info.digest for info in infos if info.name in self._served_versions and info.digest},
            variants={info.name: info.signature for info in infos if self._differs_from_registry(info)},
        )
        timed = [msgspec.structs.replace(info, speed=self._speeds.get(info.name, 0.0)) for info in infos]
        models = [part for info in timed for part in (info.name, msgspec.json.encode(info)[:-1])]
        try:
            self._heartbeat_script(
                keys=[keyspace.MODELS, keyspace.WORKERS],
                args=[_unique_name(consumer), msgspec.json.encode(worker)[:-1], *models],
            )
            self._withdraw_models("now", removed)
            self._withdraw_models("old", stale)
        except redis.RedisError as exc:
            self._last_error = warn_once(logger, "could not announce this worker", exc, self._last_error)
        else:
            self._last_error = ""

    def _refresh_model_names(self) -> list[str]:
        """Read the repository's models, if they may have changed; return those that were removed."""
        before, changed_at = self._model_names or (), _changed_at(self._repository)
        if changed_at != self._folder_changed_at or time.time() - changed_at / 1e9 < FOLDER_SETTLE_S:
            try:
                self._model_names = self._repository.names()
            except errors.RepositoryError:
                self._model_names = None
            self._folder_changed_at = changed_at
        return [] if self._model_names is None else [name for name in before if name not in self._model_names]

    def _differs_from_registry(self, info: ModelInfo) -> bool:
        """Whether this worker serves another copy of a model than the registry shows."""
        shown = self._registered.get(info.name)
        return bool(
            shown and shown.digest and info.name in (self._served_versions or {}) and shown.digest != info.digest
        )

    def _withdraw_models(self, mode: str, names: Sequence[str]) -> None:
        """Withdraw models from the registry, as far as no other live worker has them."""
        if names:
            keys = [keyspace.MODELS, keyspace.WORKERS, keyspace.LEASES]
            self._withdraw_script(keys=keys, args=[mode, keyspace.KOMBU_SEPARATOR, *names])

    def _read_registry(self) -> list[str]:
        """Read the models' speeds as other workers have measured them: a worker that has not must not erase them.

        Returns:
            The models that no worker has announced for a day, or that have no time of announcement.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        assert self._client is not None
        try:
            raw_models: Any = self._client.hgetall(keyspace.MODELS)
        except redis.ResponseError as exc:
            logger.debug("may not read the models: %s", exc)
            return []
        infos = {name.decode(): msgspec.json.decode(raw, type=ModelInfo) for name, raw in raw_models.items()}
        self._speeds |= {name: info.speed for name, info in infos.items() if info.speed}
        self._registered = infos
        return [name for name, info in infos.items() if time.time() - info.seen_at > STALE_MODEL_S]

    def _rates(self, consumer: Any) -> dict[str, float]:
        """Return how many requests of each model were answered per second, since the last call."""
        answered = dict(consumer.engine.dispatcher.commit.counts)
        before, self._request_counts = self._request_counts, answered
        passed, self._counted_at = time.monotonic() - self._counted_at, time.monotonic()
        counts = {model: count - before.get(model, 0) for model, count in answered.items()}
        return {model: round(count / passed, 3) for model, count in counts.items() if count and passed > 0}


def _changed_at(repository: Repository) -> int:
    """Return when a model was last added to the repository's folder or removed; 0 where there is no such folder."""
    try:
        return repository.root.stat().st_mtime_ns
    except OSError:
        return 0


def _unique_name(consumer: Any) -> str:
    """Return a name that no other worker has, also where several have one name in Celery."""
    leases = consumer.engine.leases
    return leases.identity if leases is not None else f"{consumer.hostname}#{_PROCESS}"


def _served_versions(consumer: Any) -> dict[str, str]:
    """Return what this worker serves now: models that are warm, and whose queues it consumes."""
    warm = consumer.app.host.warm_versions()
    consuming = consumer.task_consumer.consuming_from if consumer.task_consumer else lambda _: False
    return {name: version for name, version in warm.items() if consuming(keyspace.queue(name))}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
