"""Whether a worker is alive: it announces itself from its own loop, so a loop that hangs or lost Redis falls silent."""

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

EVERY_S = 5.0
# The worker's loop stands still meanwhile: what cannot be said soon is said the next time.
TIMEOUT_S = 2.0
# What it serves is told at once when it changes: a model that is warm, a queue that is consumed no more.
LOOK_S = 0.25
# A model's folder is there a little earlier than its manifest.
SETTLED_S = 10.0
# Of a model that nobody announces any more; see withdraw_model.lua.
FORGOTTEN_S = 86_400.0
_PROCESS = f"{os.getpid()}.{secrets.token_hex(4)}"


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Announces the worker every 5 s while it consumes, and at once when what it serves changes."""

    requires = ("mutirao_worker.celery_adapter.consumer:EngineStep",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        """Take Celery's consumer."""
        super().__init__(consumer, **kwargs)
        self._timers: list[Any] = []
        self._served: dict[str, str] | None = None  # as it was last said
        self._speeds: dict[str, float] = {}  # as they were last known, by whichever worker
        self._announced_at = 0.0
        self._beats = False
        self._client: redis.Redis | None = None
        self._refusal = ""  # why it could not be announced, as it was last told
        self._script: Any = None
        self._withdraw: Any = None
        self._shown: dict[str, ModelInfo] = {}  # what the catalogue shows of each model
        self._repository: Repository
        self._listed: tuple[str, ...] | None = None  # the repository's models
        self._listed_at = -1
        self._started_at = time.time()
        self._answered: dict[str, int] = {}
        self._counted_at = time.monotonic()

    def start(self, consumer: Any) -> None:
        """Announce from now on."""
        given = consumer.app.conf.mutirao
        # Beside a broker that is no Redis, the fleet's announcements are where results are.
        url = given.result_url if given.uses_amqp else given.broker_url
        self._client = connect(url, given, min(TIMEOUT_S, given.timeout_s))
        self._script = self._client.register_script(SCRIPTS["heartbeat"])
        self._withdraw = self._client.register_script(SCRIPTS["withdraw_model"])
        self._repository = Repository(given.models)
        self._served = None
        if not self._beats:
            self._beats = True
            consumer.engine.dispatcher.commit.results.meanwhile.append(lambda: self._beat(consumer))
        self._timers = [
            consumer.timer.call_repeatedly(EVERY_S, self._announce, (consumer,)),
            consumer.timer.call_repeatedly(LOOK_S, self._look, (consumer,)),
        ]

    def stop(self, consumer: Any) -> None:
        """Fall silent at once: others need not wait to see that this worker is gone."""
        for timer in self._timers:
            timer.cancel()
        if self._client is None:
            return
        if consumer.connection is not None:
            try:
                self._client.hdel(keyspace.WORKERS, _own_name(consumer))
            except redis.RedisError as exc:
                logger.debug("could not take the announcement back: %s", exc)
        self._client.close()

    terminate = stop

    def _look(self, consumer: Any) -> None:
        """Announce what has changed; a worker that starts is announced once it consumes and has tried all its models, or after 5 s."""
        if self._served is None and not consumer.app.host.warmed_or_failed:
            return
        if _served(consumer) != self._served or _changed_at(self._repository) != self._listed_at:
            self._announce(consumer)

    def _beat(self, consumer: Any) -> None:
        """Announce in the midst of a long sending, when it is time: that is work, not a loop that hangs."""
        if time.monotonic() - self._announced_at >= EVERY_S:
            self._announce(consumer)

    def _announce(self, consumer: Any) -> None:
        self._announced_at = time.monotonic()
        gone, engine = self._list(), consumer.engine
        infos = [info for info in consumer.app.host.infos() if self._listed is None or info.name in self._listed]
        processes = consumer.pool.num_processes if consumer.pool else 1
        speeds, batches = _paces(engine, processes)
        self._served = _served(consumer)
        try:
            forgotten = self._remember()
        except redis.RedisError as exc:
            self._refusal = warn_once(logger, "could not announce this worker", exc, self._refusal)
            return
        self._speeds |= speeds
        worker = WorkerInfo(
            name=consumer.hostname,
            pid=os.getpid(),
            processes=processes,
            models=self._served,
            memory_bytes=psutil.Process().memory_info().rss,
            started_at=self._started_at,
            rates=self._rates(consumer),
            identity=engine.reservations.identity if engine.reservations is not None else "",
            cores=cores(),
            speeds=speeds,
            batches=batches,
            failing={info.name: info.reason for info in infos if info.state != "ready"},
            repository=self._listed,
            digests={info.name: info.digest for info in infos if info.name in self._served and info.digest},
            variants={info.name: info.signature for info in infos if self._is_other(info)},
        )
        known = [msgspec.structs.replace(info, speed=self._speeds.get(info.name, 0.0)) for info in infos]
        models = [part for info in known for part in (info.name, msgspec.json.encode(info)[:-1])]
        try:
            self._script(
                keys=[keyspace.MODELS, keyspace.WORKERS],
                args=[_own_name(consumer), msgspec.json.encode(worker)[:-1], *models],
            )
            self._take_off("now", gone)
            self._take_off("old", forgotten)
        except redis.RedisError as exc:
            self._refusal = warn_once(logger, "could not announce this worker", exc, self._refusal)
        else:
            self._refusal = ""

    def _list(self) -> list[str]:
        """Read which models the repository holds, if it may have changed; return those that are there no more."""
        before, changed_at = self._listed or (), _changed_at(self._repository)
        if changed_at != self._listed_at or time.time() - changed_at / 1e9 < SETTLED_S:
            try:
                self._listed = self._repository.names()
            except errors.RepositoryError:
                self._listed = None
            self._listed_at = changed_at
        return [] if self._listed is None else [name for name in before if name not in self._listed]

    def _is_other(self, info: ModelInfo) -> bool:
        """Whether this worker serves another copy of a model than the one that the catalogue shows."""
        shown = self._shown.get(info.name)
        return bool(shown and shown.digest and info.name in (self._served or {}) and shown.digest != info.digest)

    def _take_off(self, mode: str, names: Sequence[str]) -> None:
        """Take models off the catalogue, as far as no other live worker has them."""
        if names:
            keys = [keyspace.MODELS, keyspace.WORKERS, keyspace.LEASES]
            self._withdraw(keys=keys, args=[mode, keyspace.KOMBU_SEPARATOR, *names])

    def _remember(self) -> list[str]:
        """Learn how quick models are from those that have timed them: whoever has not must not take it away.

        Returns:
            The models that nobody has announced for a day, or not since there was word of when.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        assert self._client is not None
        try:
            known: Any = self._client.hgetall(keyspace.MODELS)
        except redis.ResponseError as exc:
            logger.debug("may not read the models: %s", exc)
            return []
        found = {name.decode(): msgspec.json.decode(raw, type=ModelInfo) for name, raw in known.items()}
        self._speeds |= {name: info.speed for name, info in found.items() if info.speed}
        self._shown = found
        return [name for name, info in found.items() if time.time() - info.seen_at > FORGOTTEN_S]

    def _rates(self, consumer: Any) -> dict[str, float]:
        """How many requests of each model it answered a second, since it last said so."""
        answered = consumer.engine.answered()
        before, self._answered = self._answered, answered
        passed, self._counted_at = time.monotonic() - self._counted_at, time.monotonic()
        counts = {model: count - before.get(model, 0) for model, count in answered.items()}
        return {model: round(count / passed, 3) for model, count in counts.items() if count and passed > 0}


def _changed_at(repository: Repository) -> int:
    """Tell when a model was last added to the repository's folder or removed; 0 where it is not there."""
    try:
        return repository.root.stat().st_mtime_ns
    except OSError:
        return 0


def _own_name(consumer: Any) -> str:
    """Name this worker as no other is, also where several have one name in Celery."""
    reservations = consumer.engine.reservations
    return reservations.identity if reservations is not None else f"{consumer.hostname}#{_PROCESS}"


def _served(consumer: Any) -> dict[str, str]:
    """Find what can be asked of this worker now: models that are warm, and whose queues it consumes."""
    warm = consumer.app.host.warm_versions()
    consuming = consumer.task_consumer.consuming_from if consumer.task_consumer else lambda _: False
    return {name: version for name, version in warm.items() if consuming(keyspace.queue(name))}


def _paces(engine: Any, slots: int) -> tuple[dict[str, float], dict[str, float]]:
    """Tell rows a second, and rows a batch, of each model that has been timed."""
    if not hasattr(engine, "dispatcher"):
        return {}, {}
    batcher = engine.dispatcher.batcher
    return _rounded(batcher.speeds(slots)), _rounded(batcher.rows())


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
