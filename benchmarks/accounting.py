"""What processes cost: CPU seconds and memory, read from the kernel."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_KIB = re.compile(rb"^(Rss|Pss):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Cpu:
    """CPU seconds spent so far, by who spent them. `machine` is everybody's, this benchmark's included."""

    client: float
    workers: float
    redis: float
    machine: float

    def since(self, start: Cpu) -> Cpu:
        return Cpu(*(getattr(self, name) - getattr(start, name) for name in ("client", "workers", "redis", "machine")))

    @property
    def total(self) -> float:
        return self.client + self.workers + self.redis


@dataclass(frozen=True)
class Memory:
    """Megabytes of one process. PSS counts a page that n processes share as 1/n in each, so that a sum counts it once."""

    pid: int
    pss_mb: float
    rss_mb: float


def cpu(workers: Iterable[int], redis: Iterable[int], client: float | None = None) -> Cpu:
    """Read the clocks: this process as the client, the others with their children, those that ended included.

    Looking through the processes is work of the benchmark, not of the client: its clock is read last, or was read before.
    """
    busy = psutil.cpu_times()
    return Cpu(
        workers=sum(map(_spent, tree(workers))),
        redis=sum(map(_spent, tree(redis))),
        machine=busy.user + busy.nice + busy.system + busy.irq + busy.softirq,
        client=time.process_time() if client is None else client,
    )


def memory(workers: Iterable[int]) -> list[Memory]:
    """Read every process of the trees."""
    return [_memory(process.pid) for process in tree(workers)]


def tree(roots: Iterable[int]) -> Iterator[psutil.Process]:
    """Walk the processes and their descendants."""
    for root in roots:
        process = psutil.Process(root)
        yield process
        yield from process.children(recursive=True)


def _spent(process: psutil.Process) -> float:
    # A child that ended is counted by its parent from the moment it was waited for.
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _memory(pid: int) -> Memory:
    found = dict(_KIB.findall(Path(f"/proc/{pid}/smaps_rollup").read_bytes()))
    return Memory(pid, pss_mb=int(found[b"Pss"]) / 1024, rss_mb=int(found[b"Rss"]) / 1024)
