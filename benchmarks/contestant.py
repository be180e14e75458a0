"""What a system must offer to be measured. A new contestant is one subclass in `contestants/` and one line in its table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from workload import Workload


@dataclass(frozen=True)
class Place:
    """Where a contestant runs.

    Attributes:
        folder: an empty folder of its own.
        processes: how many processes may run the model at once.
        redis: redis.conf options, the same for every contestant.
        env: its environment variables, over those of the benchmark.
    """

    folder: Path
    processes: int = 2
    redis: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


class Contestant(ABC):
    """One system serving one model; it lives in a client process of its own.

    Attributes:
        plain: it is a plain Celery app: the others are compared with the better one of these.
        remote: it has workers and a queue; without them there is nothing to submit.
        single: it answers a single request otherwise than many.
        bursts: it is sent many requests at once.
        batches: it puts many requests through one call of the model, so that a burst must be long to last a second.
    """

    plain: ClassVar[bool] = False
    remote: ClassVar[bool] = True
    single: ClassVar[bool] = True
    bursts: ClassVar[bool] = True
    batches: ClassVar[bool] = False

    def __init__(self, workload: Workload, place: Place) -> None:
        self.workload = workload
        self.place = place

    @abstractmethod
    def start(self) -> None:
        """Start everything and return when it can answer; raise when it cannot."""

    @abstractmethod
    def stop(self) -> None:
        """End everything that `start` started."""

    @abstractmethod
    def submit(self, rows: np.ndarray) -> Sequence[Any]:
        """Send each row as a request of its own, in the fastest way there is; return a handle for each."""

    def submit_singly(self, rows: np.ndarray) -> Sequence[Any] | None:  # noqa: ARG002
        """Send them by one call each, where `submit` sends many by one; None where there is no difference."""
        return None

    @abstractmethod
    def collect(self, handles: Sequence[Any], timeout_s: float) -> list[np.ndarray | None]:
        """Wait for all answers and return them in the order of the handles; None for one that did not come or failed."""

    @abstractmethod
    def one(self, row: np.ndarray) -> np.ndarray:
        """Send one row and wait for its answer."""

    def settle(self) -> None:  # noqa: B027 - few have anything to wait for
        """Wait until what a burst has set going, beside its answers, is done."""

    def workers(self) -> list[int]:
        """Return the process ids of the workers; their children are found from them."""
        return []

    def redis(self) -> list[int]:
        """Return the process id of the Redis server, if there is one."""
        return []
