"""Where a run took place, and how quiet it was: figures without that mean little."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from mutirao.embedded import redis_binary

PACKAGES = ("celery", "kombu", "redis", "hiredis", "numpy", "scikit-learn", "msgspec")


def description() -> dict[str, Any]:
    """Say what the run stands on."""
    return {
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "redis-server": str(redis_binary.find()),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "load_average": os.getloadavg(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
