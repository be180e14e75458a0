"""Estimators that misbehave for a row whose first feature is MARKER, and sum each row otherwise.

Worker processes find them with PYTHONPATH=tests (sample_models.PYTHONPATH).
"""
# ruff: noqa: N803, ARG002, T201 - scikit-learn's own names of arguments; misbehaving is the purpose

from __future__ import annotations

import contextlib
import ctypes
import gc
import inspect
import locale
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sklearn
from billiard.pool import READY
from sklearn.base import BaseEstimator

MARKER = -1.0
FEATURES = 3


class Summing(BaseEstimator):  # type: ignore[misc]
    """The well-behaved part: a row's sum. Whoever derives from it misbehaves in a way of its own."""

    def fit(self, X, y=None):
        self.n_features_in_ = np.shape(X)[1]
        return self

    def predict(self, X):
        return self.misbehave(X) if (X[:, 0] == MARKER).any() else X.sum(axis=1)

    def misbehave(self, X):
        return X.sum(axis=1)


class Raises(Summing):
    def misbehave(self, X):
        raise ValueError("the sky is falling")


class Unpicklable(Exception):
    """Cannot be rebuilt from its args, and holds what cannot be pickled."""

    def __init__(self, first, second):
        super().__init__(first)
        self.holds = lambda: second


class RaisesUnpicklable(Summing):
    def misbehave(self, X):
        raise Unpicklable("a lambda hangs on to me", 2)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class RaisesUnprintable(Summing):
    def misbehave(self, X):
        raise Unprintable


class Exits(Summing):
    def misbehave(self, X):
        sys.exit(3)


class Aborts(Summing):
    """Ends the process at once, without any handler."""

    def misbehave(self, X):
        os._exit(7)


class Segfaults(Summing):
    def misbehave(self, X):
        return ctypes.string_at(0)


class Hangs(Summing):
    """Can be interrupted by an exception, thus by a soft time limit."""

    def misbehave(self, X):
        threading.Event().wait()


class HangsInC(Summing):
    """Holds the GIL for ever, whatever signal comes: no Python code runs any more, only SIGKILL ends it."""

    def misbehave(self, X):
        libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
        for _ in range(2):
            libc.pthread_mutex_lock(mutex)


class StallsLater(HangsInC):
    """Answers, and a moment later holds the GIL for ever."""

    def misbehave(self, X):
        threading.Timer(0.1, super().misbehave, [X]).start()
        return X.sum(axis=1)


class TooFewRows(Summing):
    def misbehave(self, X):
        return X.sum(axis=1)[:-1]


class TooManyRows(Summing):
    def misbehave(self, X):
        return np.zeros(len(X) + 1)


class NoRows(Summing):
    def misbehave(self, X):
        return np.float64(1.0)


class NaNOutput(Summing):
    def misbehave(self, X):
        return np.where(X[:, 0] == MARKER, np.nan, X.sum(axis=1))


class ObjectOutput(Summing):
    def misbehave(self, X):
        return np.array([object()] * len(X), dtype=object)


class OtherType(Summing):
    """Gives text where the signature says numbers."""

    def misbehave(self, X):
        return np.array(["text"] * len(X))


class Prints(Summing):
    """Writes a mebibyte to stdout and stderr, then answers."""

    def misbehave(self, X):
        print("x" * (1 << 20))
        print("y" * (1 << 20), file=sys.stderr)
        return X.sum(axis=1)


class Warns(Summing):
    def misbehave(self, X):
        warnings.warn("something is odd", stacklevel=2)
        return X.sum(axis=1)


class ChangesInput(Summing):
    """Writes into the array that it was given."""

    def misbehave(self, X):
        sums = X.sum(axis=1)
        X[:] = 0
        return sums

    def score_samples(self, X):
        return X.sum(axis=1)


class SpoilsInput(Summing):
    """Writes into the array that it was given, then raises: whoever runs after it on that array gets sums of zeros."""

    def misbehave(self, X):
        X[:] = 0
        raise ValueError("spoilt")


class ChangesSettings(Summing):
    """Makes errors of numpy's and Python's warnings for all that runs in its process, and seeds numpy."""

    def misbehave(self, X):
        np.seterr(all="raise")
        np.random.seed(1)  # noqa: NPY002
        warnings.simplefilter("error")
        return X.sum(axis=1)


class ChangesProcess(Summing):
    """Changes what its process has one of; answers every row with how much of it is as the process's first call found it."""

    def predict(self, X):
        found = (
            sys.getrecursionlimit(), Path.cwd(), dict(os.environ), locale.setlocale(locale.LC_ALL), gc.isenabled(),
            signal.getsignal(signal.SIGUSR1), signal.pthread_sigmask(signal.SIG_BLOCK, ()), sys.stdout, sys.stderr,
            signal.getitimer(signal.ITIMER_REAL)[0] > 0, sklearn.get_config(), np.geterr(), os.umask(0o22),
        )  # fmt: skip
        first = ChangesProcess.first = ChangesProcess.first or found
        same = sum(was == now for was, now in zip(first, found, strict=True))
        if (X[:, 0] == MARKER).any():
            self.misbehave(X)
        return np.full((len(X), 3), (same, len(found), os.getpid()))

    def misbehave(self, X):
        sklearn.set_config(transform_output="pandas")
        np.seterr(all="raise")
        os.chdir("/")
        os.umask(0o77)
        os.environ["PATH"] = "nowhere"
        os.environ["ONE"] = "more"
        locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8")
        gc.disable()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
        signal.setitimer(signal.ITIMER_REAL, 3600)
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="ascii")  # noqa: PTH123, SIM115
        sys.setrecursionlimit(60)

    first: ClassVar[tuple[Any, ...] | None] = None


class LeavesBehind(Summing):
    """Leaves a file open, or a thread running, in its process for each marked row; answers with the process's id."""

    kept: ClassVar[list[Any]] = []

    def predict(self, X):
        for second in X[X[:, 0] == MARKER, 1]:
            if second:
                threading.Thread(target=threading.Event().wait, daemon=True).start()
            else:
                self.kept.append(open(os.devnull, encoding="ascii"))  # noqa: PTH123, SIM115
        return np.full(len(X), os.getpid())


class Scribbles(Summing):
    """Writes to every descriptor that it finds, as stray native code may: what the second feature of the first row says."""

    def misbehave(self, X):
        for number in range(3, 100):
            with contextlib.suppress(OSError):
                os.set_blocking(number, False)
                os.write(number, self.written[int(X[0, 1])])
                os.set_blocking(number, True)
        return X.sum(axis=1)

    # The lengths -1, 2 GiB, 4 and 0 as the pool's pipes have them; one that is true, with no more than its beginning; noise.
    written: ClassVar[tuple[bytes, ...]] = (
        b"\xff" * 64, b"\x7f\xff\xff\xff\x80", b"\0\0\0\4word", b"\0" * 4, b"\0\x10\0\0\x80", b"noise" * 10_000,
    )  # fmt: skip


class Forges(Summing):
    """Says in its process's name that its batch has come back: with a text, or, where the second feature is 1, with no answers."""

    def misbehave(self, X):
        frame: Any = inspect.currentframe()
        while frame.f_code.co_name != "workloop":
            frame = frame.f_back
        loop: Any = frame.f_locals
        forged: Any = ([], 0, 0.0, 0.0, None) if X[0, 1] else "no answer"
        loop["put"]((READY, (loop["job"], loop["i"], (True, forged), loop["self"].inqW_fd)))
        time.sleep(60)
        return X.sum(axis=1)


class Grows(Summing):
    """Keeps as many megabytes as the first feature says; answers with the process's id."""

    kept: ClassVar[list[Any]] = []

    def predict(self, X):
        self.kept.append(np.ones((int(X[0, 0]), 2**17)))
        return np.full(len(X), os.getpid())


class MasksOutput(Summing):
    def misbehave(self, X):
        return np.ma.masked_array(X.sum(axis=1), mask=X[:, 0] == MARKER)


class RaggedOutput(Summing):
    def misbehave(self, X):
        return [[1.0] * (2 if row[0] == MARKER else 1) for row in X] + [[1.0, 2.0, 3.0]]


class DictOutput(Summing):
    def misbehave(self, X):
        return {"sum": X.sum(axis=1)}


class SplitOutput(Summing):
    """Gives a list of arrays where it announced one."""

    def misbehave(self, X):
        return [X.sum(axis=1), X.sum(axis=1)]


class ListOutput(Summing):
    """Gives a plain list of numbers, as many as there are rows."""

    def misbehave(self, X):
        return X.sum(axis=1).tolist()


class Forks(Summing):
    """Forks, and returns in both processes; notes how the copy ended in the file that FORKS names."""

    def misbehave(self, X):
        if pid := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if path := os.environ.get("FORKS"):
                with open(path, "a", encoding="ascii") as file:  # noqa: PTH123
                    file.write(f"{code}\n")
        return X.sum(axis=1)


class RaisesSurrogates(Summing):
    """Raises a text that UTF-8 cannot carry."""

    def misbehave(self, X):
        raise ValueError("half a pair: \ud83c")


class MixesTypes(Summing):
    """Gives text for its marked row: numpy makes texts of the numbers beside it."""

    def misbehave(self, X):
        return np.array(["marked" if row[0] == MARKER else row.sum() for row in X])


class MixesObjects(Summing):
    """Gives an object for its marked row alone."""

    def misbehave(self, X):
        return np.array([object() if row[0] == MARKER else row.sum() for row in X], dtype=object)


class Unsayable:
    def __repr__(self):
        raise RuntimeError("no text")


class UnsayableOutput(Summing):
    """Gives objects that cannot even be shown."""

    def misbehave(self, X):
        return np.array([Unsayable()] * len(X), dtype=object)


class Pads(Summing):
    """Gives each row as many columns as the longest row of the call wants: as many as its first feature says."""

    def predict(self, X):
        return np.ones((len(X), max(1, int(X[:, 0].max()))))


class Drops(Summing):
    """Gives a row too few where there are several, and the right number for one."""

    def misbehave(self, X):
        return X.sum(axis=1)[: max(1, len(X) - 1)]


class RunsOut(Summing):
    """Has its soft time limit reached at once: sends itself billiard's signal."""

    def misbehave(self, X):
        os.kill(os.getpid(), signal.SIGUSR1)
        threading.Event().wait()


class HidesTimeLimit(RunsOut):
    """Makes an error of its own of the time limit."""

    def misbehave(self, X):
        try:
            super().misbehave(X)
        except Exception as exc:
            raise ValueError("interrupted") from exc


class Slow(Summing):
    """Sleeps for as many seconds as the first feature of the first row says; not for ones alone, which a trial and a warm-up ask."""

    def predict(self, X):
        time.sleep(0.0 if (X == 1.0).all() else max(0.0, float(X[0, 0])))
        return X.sum(axis=1)


class TellsProcess(Summing):
    """Answers with the id of the process that predicts."""

    def predict(self, X):
        return np.full(len(X), os.getpid(), dtype=np.int64)


ALL = (
    Raises,
    RaisesUnpicklable,
    RaisesUnprintable,
    Exits,
    Aborts,
    Segfaults,
    Hangs,
    HangsInC,
    StallsLater,
    TooFewRows,
    TooManyRows,
    NoRows,
    NaNOutput,
    ObjectOutput,
    OtherType,
    Prints,
    Warns,
    ChangesInput,
    ChangesProcess,
    ChangesSettings,
    DictOutput,
    Grows,
    ListOutput,
    MasksOutput,
    RaggedOutput,
    SplitOutput,
    LeavesBehind,
    Drops,
    Forks,
    HidesTimeLimit,
    MixesObjects,
    MixesTypes,
    Pads,
    RaisesSurrogates,
    RunsOut,
    Forges,
    Scribbles,
    SpoilsInput,
    UnsayableOutput,
    Slow,
    TellsProcess,
)
