"""Plain Celery, set up as well as it allows (see docs/benchmarks.md for what was tried)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from fleet import Fleet

APP = "contestants.plain_celery_app"


class Prefork(Fleet):
    """One worker with a pool of processes; the model is loaded before the pool forks."""

    plain = True
    load = "import"

    def commands(self) -> list[list[str]]:
        return [self._worker("prefork", self.place.processes)]

    def env(self) -> Mapping[str, str]:
        model = {"BENCH_MODEL": str(self.workload.file), "BENCH_OUTPUT": self.workload.output}
        return {"BENCH_REDIS": self.url, "BENCH_LOAD": self.load, **model}

    def connect(self) -> None:
        os.environ["BENCH_REDIS"] = self.url
        module = import_module(APP)
        self._app, self._task = module.app, module.predict
        # Announcements of results that `collect` read by MGET pile up in the app's subscription, and would delay `get`.
        self._alone = module.configured()
        first = self._task.delay(self.workload.rows[0].tolist())
        self.until(first.ready)

    def stop(self) -> None:
        self._app.close()
        self._alone.close()
        super().stop()

    def submit(self, rows: np.ndarray) -> Sequence[Any]:
        # One producer for all: `delay` would take one from the pool and give it back each time.
        with self._app.producer_pool.acquire(block=True) as producer:
            return [self._task.apply_async((row.tolist(),), producer=producer) for row in rows]

    def collect(self, handles: Sequence[Any], timeout_s: float) -> list[np.ndarray | None]:
        # One MGET for all that are still missing: cheaper than a message per result (join_native), see docs/benchmarks.md.
        answers: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(TimeoutError):
            for id_, meta in self._app.backend.get_many([handle.id for handle in handles], timeout_s, interval=0.02):
                answers[id_] = meta  # noqa: PERF403 - what came before the timeout counts
        return [_answer(answers.get(handle.id)) for handle in handles]

    def one(self, row: np.ndarray) -> np.ndarray:
        return np.asarray(self._alone.send_task("predict", (row.tolist(),)).get(timeout=30))

    def _worker(self, pool: str, processes: int) -> list[str]:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
        return [
            sys.executable,
            "-m",
            "celery",
            "-A",
            APP,
            "worker",
            "-P",
            pool,
            "-c",
            str(processes),
            "-O",
            "fair",
            *quiet,
        ]


class Solo(Prefork):
    """As many workers of one process each: no pipe between parent and child."""

    def commands(self) -> list[list[str]]:
        return [[*self._worker("solo", 1), "-n", f"solo{n}@bench"] for n in range(self.place.processes)]


class Lazy(Prefork):
    """As Prefork, but each child loads the model at its first task, as tutorials do."""

    load = "first use"


def _answer(meta: dict[str, Any] | None) -> np.ndarray | None:
    return np.asarray(meta["result"]) if meta and meta["status"] == "SUCCESS" else None
