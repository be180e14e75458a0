"""The ends that are announced: how often, for each job. The first end wins, so never more than one.

with EndAnnouncements(server.url) as announced:
    ...
    announced.ended     # {id: how often it was announced as ended}
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any, Self

import msgspec
import redis

from mutirao import keyspace
from mutirao.wire.messages import TERMINAL
from support import waiting

PATTERNS = (keyspace.record_key("*"), keyspace.reply_channel("*"))


class Document(msgspec.Struct):
    """What there is to know here of a record."""

    status: str
    task_id: str


class EndAnnouncements:
    """Listens from the start of a `with` block to its end; what Redis announces while it is away is not heard."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._thread = threading.Thread(target=self._listen)
        self._stopped = threading.Event()
        self._ready = threading.Event()
        self.ended: Counter[str] = Counter()
        self.grouped: Counter[str] = Counter()  # on the clients' reply channels
        self.first_at: dict[str, float] = {}

    def doubles(self) -> list[str]:
        """The jobs that ended more than once."""
        return sorted(id for found in (self.ended, self.grouped) for id, times in found.items() if times > 1)

    def settle(self) -> None:
        """Wait until all that was announced so far has been heard."""
        id = f"mark-{time.monotonic_ns()}"
        with redis.Redis.from_url(self._url) as client:
            client.publish(keyspace.record_key(id), msgspec.json.encode(Document("SUCCESS", id)))
        waiting.until(lambda: id in self.ended)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join(30)

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                self._hear()
            except (redis.RedisError, OSError):
                self._stopped.wait(0.05)

    def _hear(self) -> None:
        with redis.Redis.from_url(self._url, socket_timeout=10) as client, client.pubsub() as pubsub:
            pubsub.psubscribe(*PATTERNS)
            while not self._stopped.is_set():
                said = pubsub.get_message(timeout=0.2)
                if said and said["type"] == "psubscribe" and said["data"] == len(PATTERNS):
                    self._ready.set()
                if said and said["type"] == "pmessage":
                    self._note(said["pattern"].decode(), said["data"])

    def _note(self, pattern: str, data: bytes) -> None:
        alone = pattern == PATTERNS[0]
        documents: Any = msgspec.json.decode(data, type=Document if alone else list[Document])
        for document in [documents] if alone else documents:
            if document.status in TERMINAL:
                (self.ended if alone else self.grouped)[document.task_id] += 1
                self.first_at.setdefault(document.task_id, time.time())
