"""When a process of the pool is worn out: it has served enough, it has grown too large, or a model has left something behind in it."""

from __future__ import annotations

import collections
import logging

import psutil

from mutirao_worker.process.isolation import Leak

logger = logging.getLogger(__name__)

# A model that leaves something behind in every process, a connection that it keeps, say, is let do so from then on ...
REPLACED_MOST = 3
# ... until this much has been left behind in one.
LEFT_MOST = 32


class ProcessRecycler:
    """Counts what the processes of one worker have run, and says which of them are to be replaced."""

    def __init__(self, max_batches: int = 0, max_bytes: int = 0) -> None:
        """Take after how many batches, and above how many bytes of resident memory, a process is replaced; 0 for never."""
        self._batches: collections.Counter[int] = collections.Counter()
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._replaced: collections.Counter[str] = collections.Counter()

    def reason_to_replace(self, pid: int, model: str, leak: Leak | None) -> str:
        """Return why a process is to be replaced now that it has run a batch; "" for not at all.

        Args:
            pid: the process.
            model: whose batch it was.
            leak: what that left behind.
        """
        self._batches[pid] += 1
        served = f"it has run {self._max_batches} batches" if 0 < self._max_batches <= self._batches[pid] else ""
        why = self._leaked(model, leak) or served or self._large(pid)
        if why:
            del self._batches[pid]
        return why

    def _leaked(self, model: str, leak: Leak | None) -> str:
        if leak is None or (self._replaced[model] >= REPLACED_MOST and leak.total <= LEFT_MOST):
            return ""
        self._replaced[model] += 1
        if self._replaced[model] == REPLACED_MOST:
            logger.warning(
                "model %s leaves something behind in every process, %s: it is let do so now", model, leak.description
            )
        return f"model {model} has left {leak.description} behind"

    def _large(self, pid: int) -> str:
        if not self._max_bytes:
            return ""
        try:
            size = psutil.Process(pid).memory_info().rss
        except psutil.Error:
            return ""
        return (
            f"it has {size:,} bytes of memory, over the {self._max_bytes:,} allowed" if size > self._max_bytes else ""
        )
