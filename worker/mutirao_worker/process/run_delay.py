"""How long a thread has waited for a core: what Linux's scheduler counts as its run delay (proc(5), schedstat)."""

from __future__ import annotations

import os
import threading

_mine = threading.local()


def waited_s() -> float:
    """Tell how many seconds the calling thread was ready to run, and did not, since it began; always 0 where nobody counts."""
    process = os.getpid()
    if getattr(_mine, "process", None) != process:  # a file that was opened before a fork tells of the parent
        _mine.process, _mine.file = process, _opened()
    return int(os.pread(_mine.file, 100, 0).split()[1]) / 1e9 if _mine.file is not None else 0.0


def _opened() -> int | None:
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
