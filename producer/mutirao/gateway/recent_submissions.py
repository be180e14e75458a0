"""The jobs that this process has queued: it hears of their ends without asking Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mutirao.client.job import JobHandle, SubmissionContext
from mutirao.gateway.coalescer import Queued

# The latest ones; of others Redis is asked.
OWN_MAX = 100_000


class RecentSubmissions:
    """Remembers them by their ids, until somebody has been told how they ended."""

    def __init__(self) -> None:
        """Know none."""
        self._origins: dict[str, SubmissionContext] = {}

    def keep(self, queued: Sequence[Queued]) -> None:
        """Remember the jobs of one call."""
        for job, known in queued:
            if not known and job.origin is not None:
                self._origins[job.id] = job.origin
        for id in list(self._origins)[: max(0, len(self._origins) - OWN_MAX)]:
            del self._origins[id]

    def handles(self, ids: Iterable[str]) -> dict[str, JobHandle]:
        """Find those of the jobs that are remembered."""
        origins = ((id, self._origins.get(id)) for id in ids)
        return {id: JobHandle(id, origin) for id, origin in origins if origin is not None}

    def forget(self, ids: Iterable[str]) -> None:
        """Forget jobs whose ends were told."""
        for id in ids:
            self._origins.pop(id, None)
