"""Threads of native libraries: one while models are loaded, none left when the process forks, a share of the cores in each child.

A team of OpenMP's threads does not survive a fork: a child that inherits its records waits for threads that it does not have, for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator, Mapping

import threadpoolctl

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_HARD = 2  # OpenMP 5.0's omp_pause_hard: give back threads and all


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def per_process(processes: int, environ: Mapping[str, str]) -> int:
    """Share the cores: processes x threads = cores, at least one thread each; OMP_NUM_THREADS wins where it is set."""
    configured = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(configured) if configured.isdecimal() and int(configured) > 0 else max(1, cores() // max(1, processes))


def may_fork() -> bool:
    """Whether this process has no thread that a fork would lack: none of Python's but this one, and no OpenMP.

    OpenBLAS ends and begins its own around a fork.
    """
    return threading.active_count() == 1 and not any(
        library["user_api"] == "openmp" for library in threadpoolctl.threadpool_info()
    )


@contextlib.contextmanager
def one(then: int) -> Iterator[None]:
    """Let native libraries use one thread inside; those that are loaded later start with `then`, or with what their variable says."""
    own = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        os.environ.update(dict.fromkeys(VARIABLES, str(then)) | own)
        _end_teams()


def cap(threads: int) -> None:
    """Cap the threads of this process's native libraries."""
    threadpoolctl.threadpool_limits(threads)


def _end_teams() -> None:
    """End the teams of libraries that have started one all the same: a model may set its own number of threads."""
    for library in threadpoolctl.threadpool_info():
        if library["user_api"] == "openmp":
            pause = getattr(ctypes.CDLL(library["filepath"]), "omp_pause_resource_all", None)
            if pause is not None:  # GCC's since version 9, LLVM's since version 9
                pause(_HARD)
