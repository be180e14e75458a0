"""Estimators that note each row they predict in the ledger. Worker processes find them with PYTHONPATH=tests."""
# ruff: noqa: N803 - scikit-learn's own names

from __future__ import annotations

import os
import signal
import threading
import time
from functools import cache
from typing import Any

import numpy as np
import redis

from support.bad_models import Summing

# Rows are (what it does, its own number, any weight). Numbers below the first are the examples of a warm-up, and not noted.
FIRST = 1000
BEHAVES, DIES_ONCE, DIES, HANGS = 0.0, 1.0, 2.0, 3.0

EXECUTIONS = "executions"


class Recorded(Summing):
    """Answers 3 x number + weight, after `each_s` seconds a row."""

    def __init__(self, each_s: float = 0.0) -> None:
        self.each_s = each_s

    def predict(self, X: Any) -> Any:
        if "LEDGER_URL" in os.environ:
            _ledger(os.getpid()).ping()  # opened by the warm-up: a process in which a call opens something is replaced
            if rows := [int(number) for number in X[:, 1] if number >= FIRST]:
                note(rows)
                misbehave(X)
        time.sleep(self.each_s * len(X))
        return answers(X)


def answers(X: Any) -> Any:
    """What the model says of these rows."""
    return 3 * np.asarray(X)[:, 1] + np.asarray(X)[:, 2]


def note(numbers: list[int]) -> None:
    """Note that these rows are predicted by this process, now."""
    tail = f"{os.getpid()} {os.getppid()} {time.time():.6f}"
    _ledger(os.getpid()).rpush(EXECUTIONS, *(f"{number} {tail}" for number in numbers))


def misbehave(X: Any) -> None:
    """Do what a row asks for: SIGKILL is what the kernel sends to a process that takes too much memory."""
    for does, number in X[:, :2]:
        if does == HANGS:
            threading.Event().wait()
        if does == DIES or (does == DIES_ONCE and _ledger(os.getpid()).set(f"died:{number:.0f}", os.getpid(), nx=True)):
            os.kill(os.getpid(), signal.SIGKILL)


@cache
def _ledger(pid: int) -> redis.Redis:  # a connection does not survive a fork: one for each process
    return redis.Redis.from_url(os.environ["LEDGER_URL"])
