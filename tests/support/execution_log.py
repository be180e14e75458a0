"""Who predicted which row, when: kept by a Redis of its own that no fault reaches.

with ExecutionLog() as log, WorkerProcess(server.url, execution_log.repository(folder), env=log.env):
    ...
    log.executions()
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple, Self

import joblib
import numpy as np

from mutirao_worker.models.repository import Repository
from support import recorded_models
from support.recorded_models import Recorded
from support.redis_servers import RedisServer

# Seconds a row: a cheap model, and one that has others wait.
MODELS = {"quick": 0.001, "dear": 0.02}


class Execution(NamedTuple):
    """One row, predicted once: by which process, the child of which worker, when (seconds since the epoch)."""

    number: int
    pid: int
    parent: int
    at: float


class ExecutionLog:
    """Starts in the constructor; use it as a context manager."""

    def __init__(self) -> None:
        self._server = RedisServer(options={"appendonly": "no"})
        self._client = self._server.client(decode_responses=True)
        self.env = {"LEDGER_URL": self._server.url}

    def executions(self) -> list[Execution]:
        """Every execution so far, in order."""
        lines: Any = self._client.lrange(recorded_models.EXECUTIONS, 0, -1)
        return [Execution(int(row), int(pid), int(parent), float(at)) for row, pid, parent, at in map(str.split, lines)]

    def by_row(self) -> dict[int, list[Execution]]:
        """The executions of each row, by its number, in order."""
        found: dict[int, list[Execution]] = defaultdict(list)
        for execution in self.executions():
            found[execution.number].append(execution)
        return found

    def deaths(self) -> list[Execution]:
        """The executions that killed their own process, of rows that do so once."""
        rows = self.by_row()
        killed: Any = {key: self._client.get(key) for key in self._client.scan_iter("died:*")}
        pairs = {(int(key.partition(":")[2]), int(pid)) for key, pid in killed.items()}
        return [run for number, pid in pairs for run in rows[number] if run.pid == pid]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.close()


def repository(root: Path, models: dict[str, float] | None = None, **settings: Any) -> Path:
    """Make a repository of models that note what they predict: by name, their seconds a row."""
    made = Repository(root)
    for name, each_s in (models or MODELS).items():
        made.add(name, saved(root.parent, name, each_s), **settings)
    return made.root


def saved(folder: Path, name: str, each_s: float) -> Path:
    """Save such a model with joblib."""
    path = folder / f"{name}.joblib"
    path.parent.mkdir(parents=True, exist_ok=True)
    joblib.dump(Recorded(each_s).fit(np.zeros((2, 3))), path)
    return path
