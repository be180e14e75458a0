"""Whether a worker is alive: it announces itself from its own loop, so a loop that hangs or lost Redis falls silent.

`python -m mutirao_worker.health` is the container's health check: 0 if a worker of this host announced itself lately.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from importlib.resources import files
from typing import Any

import msgspec
import psutil
import redis
from celery import bootsteps

from mutirao import errors, queues, settings
from mutirao.broker.redis import Redis
from mutirao.broker.server import connect
from mutirao.catalog import WorkerInfo
from mutirao.core import Core

logger = logging.getLogger(__name__)

EVERY_S = 5.0


class Presence(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Announces the worker and its models every 5 s while it consumes."""

    requires = ("mutirao_worker.strategy:Engine",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        """Take Celery's consumer."""
        super().__init__(consumer, **kwargs)
        self._timer: Any = None
        self._client: redis.Redis | None = None
        self._script: Any = None
        self._started_at = time.time()
        self._answered: dict[str, int] = {}
        self._counted_at = time.monotonic()

    def start(self, consumer: Any) -> None:
        """Announce now, and go on."""
        given = consumer.app.conf.mutirao
        # Beside a broker that is no Redis, the fleet's announcements are where results are.
        url = given.result_url if given.foreign else given.broker_url
        self._client = connect(url, given, socket_timeout=2.0, socket_connect_timeout=2.0)
        self._script = self._client.register_script(files(__package__).joinpath("announce.lua").read_text())
        self._announce(consumer)
        self._timer = consumer.timer.call_repeatedly(EVERY_S, self._announce, (consumer,))

    def stop(self, consumer: Any) -> None:
        """Fall silent at once: others need not wait to see that this worker is gone."""
        if self._timer is not None:
            self._timer.cancel()
        if self._client is None:
            return
        try:
            self._client.hdel(queues.WORKERS, consumer.hostname)
        except redis.RedisError as exc:
            logger.debug("could not take the announcement back: %s", exc)
        self._client.close()

    terminate = stop

    def _announce(self, consumer: Any) -> None:
        infos = consumer.app.host.infos()
        worker = WorkerInfo(
            name=consumer.hostname,
            pid=os.getpid(),
            processes=consumer.pool.num_processes if consumer.pool else 1,
            models={info.name: info.version for info in infos if info.state == "ready"},
            memory_bytes=psutil.Process().memory_info().rss,
            started_at=self._started_at,
            rates=self._rates(consumer),
        )
        models = [part for info in infos for part in (info.name, msgspec.json.encode(info))]
        try:
            self._script(
                keys=[queues.MODELS, queues.WORKERS], args=[worker.name, msgspec.json.encode(worker)[:-1], *models]
            )
        except redis.RedisError as exc:
            logger.warning("could not announce this worker: %s", exc)

    def _rates(self, consumer: Any) -> dict[str, float]:
        """How many requests of each model it answered a second, since it last said so."""
        engine = getattr(consumer, "engine", None)
        answered = engine.answered() if engine is not None else {}
        before, self._answered = self._answered, answered
        passed, self._counted_at = time.monotonic() - self._counted_at, time.monotonic()
        counts = {model: count - before.get(model, 0) for model, count in answered.items()}
        return {model: round(count / passed, 3) for model, count in counts.items() if count and passed > 0}


def main() -> int:
    """Check the workers of this host."""
    given = settings.load()
    here = socket.gethostname()
    try:
        workers = Redis(given).run(Core(given, check=False).catalog()).workers
    except errors.BrokerUnavailable as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    found = [worker.name for worker in workers if worker.name.partition("@")[2] == here]
    sys.stdout.write(
        f"{', '.join(found)} alive\n" if found else f"no worker of {here} announced itself in the last 15 s\n"
    )
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
