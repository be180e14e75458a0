"""Requests of several models, priorities and sizes, submitted steadily by a thread, each row with a number of its own."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from mutirao import BrokerUnavailable
from support import recorded_models
from support.trial_systems import TrialSystem

PRIORITIES = ("high", "normal", "normal", "normal", "low")


class AcceptedRequest(NamedTuple):
    """One request that was accepted: when (seconds since the epoch), and its rows."""

    id: str
    model: str
    rows: Any
    accepted_at: float

    @property
    def numbers(self) -> list[int]:
        return [int(number) for number in self.rows[:, 1]]

    @property
    def answer(self) -> list[float]:
        """What the model itself says."""
        found: list[float] = recorded_models.answers(self.rows).tolist()
        return found


class TrialLoad:
    """Submits from the start of a `with` block until stop() or its end; what was accepted is in `asked`.

    Args:
        system: where to.
        seed: of what is asked.
        per_s: about how many requests a second.
        models: their names.
    """

    def __init__(
        self, system: TrialSystem, *, seed: int, per_s: float, models: Sequence[str] = ("quick", "dear")
    ) -> None:
        self._system = system
        self._random = random.Random(seed)
        self._per_s = per_s
        self._models = tuple(models)
        self._numbers = itertools.count(recorded_models.FIRST)
        self._stopped = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._idle = threading.Lock()  # held while a call is made
        self._deadly = 0
        self._thread = threading.Thread(target=self._run)
        self.asked: dict[str, AcceptedRequest] = {}
        self.refused = 0
        self.refused_in_s: list[float] = []
        self.broken: BaseException | None = None

    def deadly(self) -> None:
        """Have one of the next rows kill the process that predicts it, once."""
        self._deadly += 1

    def pause(self) -> None:
        """Submit nothing until proceed(); no call is under way any more."""
        self._flowing.clear()
        with self._idle:
            return

    def proceed(self) -> None:
        """Submit again."""
        self._flowing.set()

    def stop(self) -> None:
        """Submit no more."""
        self._stopped.set()
        self._flowing.set()
        self._thread.join(120)
        if self.broken:
            raise self.broken

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join(120)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                count = self._random.randint(1, 12)
                with self._idle:
                    if self._flowing.is_set():
                        self._submit(count)
                self._stopped.wait(count / self._per_s)
        except BaseException as exc:  # noqa: BLE001 - told by stop(), in the test's own thread
            self.broken = exc

    def _submit(self, count: int) -> None:
        model, priority = self._random.choice(self._models), self._random.choice(PRIORITIES)
        requests = [self._rows(self._random.randint(1, 4)) for _ in range(count)]
        if self._deadly:
            self._deadly -= 1
            requests[0][0, 0] = recorded_models.DIES_ONCE
        ids = [f"r{rows[0, 1]:.0f}" for rows in requests]
        while not self._accepted(model, requests, ids, priority):  # the same ids: to submit again is safe
            if self._stopped.wait(0.1):
                return
        at = time.time()
        self.asked |= {id: AcceptedRequest(id, model, rows, at) for id, rows in zip(ids, requests, strict=True)}

    def _accepted(self, model: str, requests: list[Any], ids: list[str], priority: str) -> bool:
        began = time.monotonic()
        try:
            self._system.submit(model, requests, ids, priority)
        except BrokerUnavailable:
            self.refused += 1
            self.refused_in_s.append(time.monotonic() - began)
            return False
        return True

    def _rows(self, count: int) -> Any:
        numbers = [next(self._numbers) for _ in range(count)]
        return np.array([[recorded_models.BEHAVES, number, self._random.randint(0, 999)] for number in numbers], float)
