"""Count what the gateway does, for `/metrics`."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from mutirao.wire.messages import JobRecord

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """The number of values up to each bound, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        """Begin with none."""
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a value."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds


class Metrics:
    """Plain counters: adding to one costs a fraction of a microsecond; `/metrics` turns them into Prometheus's own records."""

    def __init__(self) -> None:
        """Begin with none."""
        self.requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self.seconds: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.job_waits: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.job_queues: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.rows: defaultdict[str, int] = defaultdict(int)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request by its route, never by its path, which the caller chooses."""
        self.requests[route, method, status] += 1
        self.seconds[route].observe(seconds)

    def queued(self, model: str, rows: int) -> None:
        """Count rows that were queued."""
        self.rows[model] += rows

    def ended(self, record: JobRecord) -> None:
        """Count a job whose result was waited for: the time from its submission to its end, and the time in its queue."""
        job = record.job
        if job.queued_at is not None and job.finished_at is not None:
            self.job_waits[job.model].observe(max(0.0, job.finished_at - job.queued_at))
            if job.started_at is not None:
                self.job_queues[job.model].observe(max(0.0, job.started_at - job.queued_at))
