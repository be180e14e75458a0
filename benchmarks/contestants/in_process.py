"""The bare model in the client's own process: what a prediction costs before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np
from contestant import Contestant


class RowByRow(Contestant):
    """One call per row: the fastest that any system can answer a request alone."""

    remote = False

    def start(self) -> None:
        self._predict = getattr(joblib.load(self.workload.file), self.workload.output)

    def stop(self) -> None:
        del self._predict

    def submit(self, rows: np.ndarray) -> Sequence[Any]:
        return list(rows)

    def collect(self, handles: Sequence[Any], timeout_s: float) -> list[np.ndarray | None]:  # noqa: ARG002
        return [self.one(row) for row in handles]

    def one(self, row: np.ndarray) -> np.ndarray:
        return np.asarray(self._predict(row[np.newaxis])[0])


class OneBatch(RowByRow):
    """One call for all rows: what batching could reach at best with one process."""

    single = False
    batches = True

    def collect(self, handles: Sequence[Any], timeout_s: float) -> list[np.ndarray | None]:  # noqa: ARG002
        return list(self._predict(np.stack(handles)))
