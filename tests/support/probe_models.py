"""Estimators that tell how their worker treats them. Worker processes find them with PYTHONPATH=tests."""
# ruff: noqa: N803, ARG002 - scikit-learn's own names of arguments

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np
import threadpoolctl

from support.bad_models import Summing

MEGABYTES = 96


class Large(Summing):
    """Holds as many megabytes, and reads them all."""

    def fit(self, X, y=None):
        self.weights_ = np.ones((MEGABYTES, 2**17))
        return super().fit(X)

    def predict(self, X):
        return np.full(len(X), self.weights_.sum())


class Notes(Summing):
    """Notes the process of each call in the file that NOTES names."""

    def predict(self, X):
        if path := os.environ.get("NOTES"):
            with Path(path).open("a", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        return X.sum(axis=1)


class Threads(Summing):
    """Answers with the most threads that any native library of its process would use."""

    def predict(self, X):
        X @ X.T
        return np.full(len(X), max(library["num_threads"] for library in threadpoolctl.threadpool_info()))


class Jobs(Summing):
    """Has an n_jobs of its own, as scikit-learn's ensembles do, and answers with it."""

    def __init__(self, n_jobs=-1):
        self.n_jobs = n_jobs

    def predict(self, X):
        return np.full(len(X), self.n_jobs)


class Cold(Summing):
    """Cannot predict where COLD is set: what was added well fails its warm-up in a worker."""

    def predict(self, X):
        if os.environ.get("COLD"):
            raise RuntimeError("no weights on this machine")
        return X.sum(axis=1)


class Stuck(Summing):
    """Where STUCK is set, its first prediction in a process never returns, whatever signal comes: its warm-up."""

    def predict(self, X):
        if os.environ.get("STUCK"):
            libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
            for _ in range(2):
                libc.pthread_mutex_lock(mutex)
        return X.sum(axis=1)


class Deadly(Summing):
    """Where STUCK is set, ends its process at its first prediction there: its warm-up."""

    def predict(self, X):
        if os.environ.get("STUCK"):
            os._exit(9)
        return X.sum(axis=1)
