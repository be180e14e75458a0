"""A pool of processes for work that would block the gateway's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mutirao import errors

# Each takes as much memory as the largest body needs; more work waits.
PROCESSES = 2
# malloc.h's M_MMAP_THRESHOLD.
_MMAP_THRESHOLD = -3

T = TypeVar("T")


class ProcessPool:
    """Starts its processes when the first work comes."""

    def __init__(self) -> None:
        """Start none."""
        self._pool: ProcessPoolExecutor | None = None

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run a module's function in one of the processes; its arguments and its result are copied.

        Raises:
            GatewayBusy: the process died.
        """
        if self._pool is None:
            # Not a fork: this process has threads, and connections that are nobody else's.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=_begin)
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, _run, work, *args)
        except BrokenProcessPool as exc:
            if self._pool is pool:
                self._pool = None
            raise errors.GatewayBusy(
                "the process that parsed this body ended: send the request again", retry_after_s=1
            ) from exc

    def close(self) -> None:
        """Terminate the processes and what they run."""
        pool, self._pool = self._pool, None
        if pool is not None:
            processes = list((pool._processes or {}).values())  # noqa: SLF001 - the pool itself would wait for what runs
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                with contextlib.suppress(ValueError):
                    process.terminate()


def _run(work: Callable[..., T], *args: Any) -> T:
    try:
        return work(*args)
    finally:
        _trim()


def map_large_blocks() -> None:
    """Have the C library, where it is glibc, ask the system for each block over 1 MiB, and give it back as soon as it is freed.

    By default glibc keeps such blocks in its heap once it has freed a few of them, where smaller ones hold them fast.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, 1 << 20)


def _trim() -> None:
    """Give memory back to the system, where its C library can: small objects of a large body leave holes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _begin() -> None:
    """Leave Ctrl-C, which the whole terminal hears, to the gateway; and end with it, however it ends."""
    map_large_blocks()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(0)
