"""This system as a user has it: `mutirao models add`, `mutirao worker`, `Client`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from subprocess import run
from typing import Any

import numpy as np
from fleet import HERE, Fleet

from mutirao import Client, Job, errors


class ThisSystem(Fleet):
    """One worker of as many processes; the blocking client."""

    def prepare(self) -> None:
        env = {**os.environ, **self.env(), "PYTHONPATH": str(HERE)}
        add = [sys.executable, "-m", "mutirao", "models", "add", self.workload.name, str(self.workload.file)]
        done = run(add, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"mutirao models add failed: {done.stderr}")

    def env(self) -> Mapping[str, str]:
        return {"MUTIRAO_BROKER_URL": self.url, "MUTIRAO_MODELS": str(self.place.folder / "models")}

    def commands(self) -> list[list[str]]:
        worker = [sys.executable, "-m", "mutirao", "worker"]
        return [[*worker, "--concurrency", str(self.place.processes), "--loglevel", "error"]]

    def connect(self) -> None:
        self._client = Client(self.url)
        self._outputs = [self.workload.output]
        self.until(lambda: self._client.catalog().serving(self.workload.name))

    def stop(self) -> None:
        self._client.close()
        super().stop()

    def submit(self, rows: np.ndarray) -> Sequence[Job]:
        return self._client.submit_many(self.workload.name, rows, outputs=self._outputs)

    def submit_singly(self, rows: np.ndarray) -> Sequence[Job]:
        return [self._client.submit(self.workload.name, row[np.newaxis], outputs=self._outputs) for row in rows]

    def collect(self, handles: Sequence[Any], timeout_s: float) -> list[np.ndarray | None]:
        answers: dict[str, np.ndarray] = {}
        try:
            for job in self._client.as_completed(handles, timeout_s):
                answers[job.id] = job.result(timeout_s)[self.workload.output][0]
        except errors.MutiraoError as exc:
            sys.stderr.write(f"mutirao: {exc}\n")
        return [answers.get(job.id) for job in handles]

    def one(self, row: np.ndarray) -> np.ndarray:
        outputs = self._client.predict(self.workload.name, row[np.newaxis], timeout=30, outputs=self._outputs)
        return np.asarray(outputs[self.workload.output][0])
