"""Bodies that cost more than they look: how long another request waits meanwhile, and the most memory of the gateway's processes."""

from __future__ import annotations

import gzip
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
from workload import Workload

from fronts.gateway import Gateway
from fronts.load import HOST

WAIT_S, MEMORY_MB = 0.5, 800.0
_SIZE = 60_000_000
_BODIES = {
    "gzipped CSV": ("infer", lambda: gzip.compress(b"1,1,1,1\n" * (_SIZE // 8)), {"Content-Type": "text/csv", "Content-Encoding": "gzip"}),
    "empty rows": ("infer", lambda: b'{"rows":[' + b"[]," * (_SIZE // 3) + b"[]]}", {}),
    "long row": ("infer", lambda: b"[[" + b"0.1234567890123456," * 1_900_000 + b"1]]", {}),
    "batch": ("jobs:batch", lambda: json.dumps({"requests": [{"rows": [[5.1, 3.5, 1.4, 0.2]]}] * 99_999}).encode(), {}),
}  # fmt: skip


@dataclass(frozen=True)
class Heavy:
    """What one body came to: its answer's status, the longest wait of another request, and the most memory (RSS of all processes)."""

    name: str
    status: int
    took_s: float
    waited_s: float
    peak_mb: float

    @property
    def met(self) -> bool:
        return self.waited_s < WAIT_S and self.peak_mb < MEMORY_MB


def asked(workload: Workload, folder: Path) -> list[Heavy]:
    """Start a gateway with its fleet, and send it each body."""
    folder.mkdir()
    gateway = Gateway(workload, folder)
    try:
        gateway.start()
        return [_asked(gateway, name) for name in _BODIES]
    finally:
        gateway.stop()


def _asked(gateway: Gateway, name: str) -> Heavy:
    verb, make, headers = _BODIES[name]
    front = "v2" if verb == "infer" else "v1"
    url, body = f"http://{HOST}:{gateway.port}", make()
    over, waits, sizes = threading.Event(), [0.0], [0.0]
    (process,) = map(psutil.Process, gateway.processes()["server"])

    def look() -> None:
        while not over.is_set():
            began = time.perf_counter()
            with urlopen(f"{url}/v2/health/live", timeout=120):
                waits.append(time.perf_counter() - began)
            sizes.append(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6)
            time.sleep(0.01)

    looking = threading.Thread(target=look)
    looking.start()
    began = time.perf_counter()
    try:
        path = f"{url}/{front}/models/{gateway.workload.name}/{verb}"
        with urlopen(Request(path, data=body, headers=headers, method="POST"), timeout=120) as answer:
            status = int(answer.status)
    except HTTPError as exc:
        status = exc.code
    took_s = time.perf_counter() - began
    over.set()
    looking.join()
    return Heavy(name, status, took_s, max(waits), max(sizes))
