"""The two systems that the fault harness knows: mutirão, and a plain stock Celery app beside it for comparison."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import redis

from mutirao import Client, JobError, MutiraoError, keyspace
from mutirao.wire.messages import TERMINAL
from support import plain_celery_app, worker_process
from support.worker_process import WorkerProcess

worker_process.COMMANDS["plain"] = (
    str(worker_process.BIN / "celery"),
    "--quiet",
    "-A",
    "support.plain_celery_app",
    "worker",
    "--loglevel=info",
)


class TrialSystem(ABC):
    """What both have: workers to start, requests to submit, records to read.

    Args:
        url: the broker, as the submitting side sees it.
        models: the folder with the models.
        env: of the workers.
        worker_url: the broker, as the workers see it; the same by default.
    """

    name = ""
    command = ""

    def __init__(self, url: str, models: Path, env: Mapping[str, str], *, worker_url: str = "") -> None:
        self.url = url
        self.models = models
        self.env = dict(env)
        self.worker_url = worker_url or url
        self.redis = redis.Redis.from_url(url)

    def worker(self, name: str) -> WorkerProcess:
        """Start a worker of two processes, and do not wait for it."""
        return WorkerProcess(
            self.worker_url, self.models, concurrency=2, command=self.command, env=self.env, wait=False, name=name
        )

    @abstractmethod
    def submit(self, model: str, requests: Sequence[Any], ids: Sequence[str], priority: str) -> None:
        """Submit requests under these ids; all of them or none."""

    @abstractmethod
    def answer(self, id: str) -> list[float] | Exception:
        """The numbers that a finished job gave, or its error."""

    def statuses(self, ids: Iterable[str]) -> dict[str, str]:
        """The status of each job; "" where there is no record."""
        found: dict[str, str] = {}
        rest = iter(ids)
        while some := list(itertools.islice(rest, 1000)):
            records: Any = self.redis.mget(map(keyspace.record_key, some))
            found |= {id: _status(raw) for id, raw in zip(some, records, strict=True)}
        return found

    def unfinished(self, ids: Iterable[str]) -> list[str]:
        """Those of these jobs that have no end yet."""
        return [id for id, status in self.statuses(ids).items() if status not in TERMINAL]

    @abstractmethod
    def held(self, worker: WorkerProcess) -> dict[bytes, bytes]:
        """The messages that a worker has taken and not answered, by tag."""

    @abstractmethod
    def leftovers(self) -> dict[str, int]:
        """What stands in the keys that ought to be empty once every job has ended."""

    def close(self) -> None:
        self.redis.close()


def _status(raw: bytes | None) -> str:
    return str(msgspec.json.decode(raw)["status"]) if raw else ""


class MutiraoSystem(TrialSystem):
    """This project."""

    name = "mutirão"
    command = "mutirao"

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.client = Client(self.url, check=False, timeout_s=2)

    def submit(self, model: str, requests: Sequence[Any], ids: Sequence[str], priority: str) -> None:
        self.client.submit_many(model, requests, ids=ids, priority=priority)

    def answer(self, id: str) -> list[float] | Exception:
        try:
            found: list[float] = self.client.outputs(self.client.record(id))["predict"].tolist()
        except (JobError, MutiraoError) as exc:
            return exc
        return found

    def held(self, worker: WorkerProcess) -> dict[bytes, bytes]:
        pattern = keyspace.reserved_key(f"{worker.name}#{worker.pid}.*")
        return {tag: raw for key in self.redis.scan_iter(pattern) for tag, raw in self._hash(key).items()}

    def leftovers(self) -> dict[str, int]:
        lists = [key for key in self.redis.scan_iter("mutirao.*") if self.redis.type(key) == b"list"]
        hashes = [*self.redis.scan_iter(keyspace.reserved_key("*")), b"unacked", keyspace.DEAD.encode()]
        sizes = {key: self.redis.llen(key) for key in lists} | {key: self.redis.hlen(key) for key in hashes}
        sizes |= {key.encode(): self.redis.zcard(key) for key in ("unacked_index", keyspace.DEAD_INDEX)}
        return {key.decode(): int(size) for key, size in sizes.items() if size}

    def close(self) -> None:
        self.client.close()
        super().close()

    def _hash(self, key: bytes) -> dict[bytes, bytes]:
        found: Any = self.redis.hgetall(key)
        return dict(found)


class CelerySystem(TrialSystem):
    """The plain app: one task a request."""

    name = "stock Celery"
    command = "plain"

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.env |= {"PLAIN_URL": self.worker_url, "PLAIN_MODELS": str(self.models)}
        plain_celery_app.app.conf.update(broker_url=self.url, result_backend=self.url)

    def submit(self, model: str, requests: Sequence[Any], ids: Sequence[str], priority: str) -> None:  # noqa: ARG002
        for request, id in zip(requests, ids, strict=True):
            plain_celery_app.predict.apply_async((model, np.asarray(request).tolist()), task_id=id)

    def answer(self, id: str) -> list[float] | Exception:
        raw: Any = self.redis.get(keyspace.record_key(id))
        document = msgspec.json.decode(raw)
        if document["status"] != "SUCCESS":
            return RuntimeError(str(document["result"]))
        found: list[float] = document["result"]
        return found

    def held(self, worker: WorkerProcess) -> dict[bytes, bytes]:  # noqa: ARG002 - it keeps them all together
        return {}

    def leftovers(self) -> dict[str, int]:
        sizes: Any = {"celery": self.redis.llen("celery"), "unacked": self.redis.hlen("unacked")}
        return {key: size for key, size in sizes.items() if size}

    def close(self) -> None:
        plain_celery_app.app.close()
        super().close()
