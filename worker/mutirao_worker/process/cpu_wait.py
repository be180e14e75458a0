"""How long a thread has waited for a core: what Linux's scheduler counts as its run delay (proc(5), schedstat)."""

from __future__ import annotations

import os
import threading

_thread = threading.local()


def waited_s() -> float:
    """Return for how many seconds the calling thread was ready to run, and did not, since it began; 0 where the system does not count."""
    process = os.getpid()
    if getattr(_thread, "process", None) != process:  # a file that was opened before a fork is the parent's
        _thread.process, _thread.file = process, _open_schedstat()
    return int(os.pread(_thread.file, 100, 0).split()[1]) / 1e9 if _thread.file is not None else 0.0


def _open_schedstat() -> int | None:
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
