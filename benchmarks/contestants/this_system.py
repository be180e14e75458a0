"""This system as a user has it: `mutirao models add`, `mutirao worker`, `Client`."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from subprocess import run
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
from celery import Celery
from fleet import HERE, Fleet

from mutirao import Client, Job, errors
from mutirao.embedded import redis_server

# Requests in one call of submit_many.
CALL = 10_000
# Flower has lost an event when it has counted nothing for so long.
STUCK_S = 5.0

_SUCCEEDED = re.compile(r'^flower_events_total\{[^}]*type="task-succeeded"[^}]*\} ([\d.e+]+)$', re.MULTILINE)


class ThisSystem(Fleet):
    """One worker of as many processes; the blocking client."""

    batches = True

    def prepare(self) -> None:
        env = {**os.environ, **self.env(), "PYTHONPATH": str(HERE)}
        add = [
            sys.executable,
            "-m",
            "mutirao",
            "models",
            "add",
            self.workload.name,
            str(self.workload.served or self.workload.file),
        ]
        if self.workload.served:
            np.save(self.place.folder / "example.npy", self.workload.rows[:4])
            add += ["--example", str(self.place.folder / "example.npy")]
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
        self._output = self.workload.served_output or self.workload.output
        self._outputs = [self._output]
        self.until(lambda: self._client.catalog().serving(self.workload.name))

    def stop(self) -> None:
        self._client.close()
        super().stop()

    def submit(self, rows: np.ndarray) -> Sequence[Job]:
        calls = (rows[first : first + CALL] for first in range(0, len(rows), CALL))
        return [
            job for some in calls for job in self._client.submit_many(self.workload.name, some, outputs=self._outputs)
        ]

    def submit_singly(self, rows: np.ndarray) -> Sequence[Job]:
        return [self._client.submit(self.workload.name, row[np.newaxis], outputs=self._outputs) for row in rows]

    def collect(self, handles: Sequence[Any], timeout_s: float) -> list[np.ndarray | None]:
        answers: dict[str, np.ndarray] = {}
        try:
            for job in self._client.as_completed(handles, timeout_s):
                answers[job.id] = job.result(timeout_s)[self._output][0]
        except errors.MutiraoError as exc:
            sys.stderr.write(f"mutirao: {exc}\n")
        return [answers.get(job.id) for job in handles]

    def one(self, row: np.ndarray) -> np.ndarray:
        outputs = self._client.predict(self.workload.name, row[np.newaxis], timeout=30, outputs=self._outputs)
        return np.asarray(outputs[self._output][0])


class NoEvents(ThisSystem):
    """The same, and nobody is told of any task."""

    def commands(self) -> list[list[str]]:
        return [[*command, "--no-events"] for command in super().commands()]


class StockClient(ThisSystem):
    """The same, asked by a stock Celery client, which rings no bell; one request at a time."""

    bursts = False

    def connect(self) -> None:
        super().connect()
        self._app = Celery("stock", broker=self.url, backend=self.url)

    def stop(self) -> None:
        self._app.close()
        super().stop()

    def one(self, row: np.ndarray) -> np.ndarray:
        name, tensor = (
            self.workload.name,
            {"name": "X", "datatype": "FP64", "shape": [1, row.size], "data": row.tolist()},
        )
        request = {"inputs": [tensor], "outputs": [{"name": self._output}]}
        sent = self._app.send_task("mutirao.predict", (name, request), queue=f"mutirao.{name}")
        (output,) = sent.get(timeout=30)["outputs"]
        return np.asarray(output["data"])


class Watched(ThisSystem):
    """The same with events, as they are by default, and a Flower that takes them in."""

    def connect(self) -> None:
        self._port = redis_server.free_port()
        self._sent = 0
        command = [sys.executable, "-m", "mutirao", "flower", "--port", str(self._port), "--password", "bench"]
        self._flower = self.run("flower", command, self.env())
        super().connect()
        self.until(lambda: self._seen() is not None)

    def submit(self, rows: np.ndarray) -> Sequence[Job]:
        self._sent += len(rows)
        return super().submit(rows)

    def settle(self) -> None:
        """Wait until Flower has counted every success: what it has yet to read would disturb whoever is next."""
        seen, since = self._seen(), time.monotonic()
        while seen != self._sent:
            if time.monotonic() > since + STUCK_S:
                raise RuntimeError(f"Flower counted {seen} of {self._sent} successes")
            time.sleep(0.1)
            before, seen = seen, self._seen()
            since = since if seen == before else time.monotonic()

    def _seen(self) -> int | None:
        """How many successes Flower has counted; None while it does not answer."""
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as page:
                return int(sum(map(float, _SUCCEEDED.findall(page.read().decode()))))
        except (URLError, OSError):
            return None
