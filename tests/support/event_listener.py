"""What a worker's events say, heard by Celery's own receiver as Flower hears them.

with EventListener(server.url) as heard:
    ...
    heard.types(id)     # ["task-received", "task-started", "task-succeeded"]
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Self

from celery import Celery

from support import brokers, waiting

READY = "listener-ready"
ENDS = {"task-succeeded", "task-failed", "task-revoked"}


class EventListener:
    """Listens from the start of a `with` block to its end."""

    def __init__(self, url: str) -> None:
        self._app = Celery(broker=brokers.broker_of(url)["broker_url"])
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self.events: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def types(self, id: str) -> list[str]:
        """The kinds of a task's events, in the order in which they came."""
        return [event["type"] for event in self.events[id]]

    def counts(self, ids: Iterable[str]) -> Counter[str]:
        """How many events of each kind came of these tasks; one of an earlier test may still be on its way."""
        return Counter(event["type"] for id in ids for event in self.events[id])

    def wait_ended(self, ids: Iterable[str], timeout_s: float = 30.0) -> None:
        """Wait until each of these tasks has been said to have ended."""
        left = set(ids)

        def ended() -> bool:
            left.difference_update([id for id in left if ENDS.intersection(self.types(id))])
            return not left

        waiting.until(ended, timeout_s=timeout_s, what=lambda: {id: self.types(id) for id in list(left)[:5]})

    def __enter__(self) -> Self:
        self._thread.start()
        with self._app.connection_for_write() as connection, self._app.events.Dispatcher(connection) as dispatcher:
            # kombu subscribes when it first reads, so nothing but an event that has come tells that it listens.
            waiting.until(lambda: dispatcher.send(READY) or self._ready.wait(0.05))
        return self

    def __exit__(self, *exc: object) -> None:
        self._receiver.should_stop = True
        self._thread.join(20)
        self._app.close()

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            self._receiver = self._app.events.Receiver(connection, handlers={"*": self._note})
            for _ in self._receiver.consume(limit=None, timeout=None, wakeup=False):
                pass

    def _note(self, event: dict[str, Any]) -> None:
        if event["type"] == READY:
            self._ready.set()
        if event["type"].startswith("task-"):
            self.events[event["uuid"]].append(event)
