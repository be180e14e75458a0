"""Which queues this worker consumes: those of models that it cannot serve are left to live workers that can.

Where no live worker can, it consumes them all the same, so that their requests end with the reason.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from mutirao import keyspace
from mutirao_worker.engine.live_workers import LiveWorkers
from mutirao_worker.models.model_host import ModelHost

logger = logging.getLogger(__name__)

# While a model cannot be served here, the workers that may serve it are read this often.
READ_S = 1.0


class QueueSelection:
    """The queues that one connection's consumer has left to others; costs no command while every model can be served.

    Attributes:
        left: the models whose queues are left.
    """

    def __init__(self, consumer: Any, live_workers: LiveWorkers) -> None:
        """Take Celery's consumer, which consumes every queue of this worker now, or is about to."""
        self.left: frozenset[str] = frozenset()
        self._consumer = consumer
        self._failures: dict[str, str] = {}  # by model, when the other workers were last read
        self._host: ModelHost = consumer.app.host
        self._live_workers = live_workers
        self._read_at = 0.0

    def refresh(self) -> bool:
        """Leave queues and take them back, as models fail here and workers come and go elsewhere; return whether any changed."""
        failures, now = self._host.failures(), time.monotonic()
        is_known = failures == self._failures and now < self._read_at + READ_S
        if is_known or not (failures or self.left):
            return False
        self._failures, self._read_at, before = failures, now, self.left
        self.left = frozenset(model for model in failures if self._live_workers.serving(model))
        tasks = self._consumer.task_consumer
        for model in sorted(self.left):
            queue = keyspace.queue(model)
            if model not in before or tasks.consuming_from(queue):
                logger.warning("%s is left to the workers that can serve it: here %s", queue, failures[model])
                tasks.cancel_by_queue(queue)
        for model in sorted(before - self.left):
            queue = keyspace.queue(model)
            if queue in (
                selected := self._consumer.app.amqp.queues.consume_from
            ):  # not cancelled by an operator meanwhile
                logger.warning("%s is consumed again", queue)
                tasks.add_queue(selected[queue])
                tasks.consume()
        return self.left != before
