"""MLServer with its runtime for scikit-learn and adaptive batching, in a virtual environment of its own."""

from __future__ import annotations

import json
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import psutil

from fronts import environment
from fronts.front import Front, answers
from fronts.load import HOST
from mutirao.embedded.process_group import ProcessGroup
from mutirao.embedded.redis_server import free_port

# MLServer 1.7.1 does not start its workers under uvloop 0.22 and later.
PACKAGES = ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22")
# These read the model's file, so they are ours.
SHARED = ("scikit-learn", "joblib", "numpy")
# On a machine that is busy otherwise its imports alone take most of a minute.
START_S = 180.0
FOLDER = Path(__file__).parent.parent / "out" / "mlserver"


class MLServer(Front):
    """`mlserver start` that runs the model in its own process; without access log, metrics and gzip, which only cost.

    Attributes:
        parallel_workers: processes that run the model; 0 runs it in the server's own.
        max_batch_time: seconds for which a batch that is not full waits for more; see docs/benchmarks.md for what was tried.
    """

    name: ClassVar[str] = "mlserver"
    parallel_workers: ClassVar[int] = 0
    max_batch_size: ClassVar[int] = 256
    max_batch_time: ClassVar[float] = 0.002

    def start(self) -> None:
        self.port, models, log = free_port(), self.folder / "models", self.folder / "mlserver.log"
        self._write(models / "settings.json", self._settings())
        self._write(models / self.workload.name / "model-settings.json", self._model())
        self._processes = ProcessGroup(self.folder / "watchdog.log")
        command = [str(installed() / "mlserver"), "start", str(models)]
        env = {**os.environ, "MLSERVER_METRICS_DIR": str(self.folder / "metrics")}
        self._server = self._processes.start(command, stage=0, grace_s=10, log=log, env=env)
        self._until_ready(log, START_S)

    def stop(self) -> None:
        self._processes.end()

    def processes(self) -> dict[str, list[int]]:
        children = [child.pid for child in psutil.Process(self._server.pid).children(recursive=True)]
        return {"server": [self._server.pid], "workers": children}

    def _settings(self) -> dict[str, Any]:
        ports = {"http_port": self.port, "grpc_port": free_port(), "metrics_port": free_port()}
        quiet = {"debug": False, "metrics_endpoint": None, "gzip_enabled": False}
        return {"host": HOST, "parallel_workers": self.parallel_workers, **ports, **quiet}

    def _model(self) -> dict[str, Any]:
        return {
            "name": self.workload.name,
            "implementation": "mlserver_sklearn.SKLearnModel",
            "max_batch_size": self.max_batch_size,
            "max_batch_time": self.max_batch_time,
            "parameters": {"uri": str(self.workload.file), "version": "1"},
        }

    def _write(self, file: Path, content: dict[str, Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))

    def _until_ready(self, log: Path, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not answers(f"http://{HOST}:{self.port}/v2/models/{self.workload.name}/ready"):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mlserver did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)


class Parallel(MLServer):
    """The same with two more processes that run the model."""

    name = "mlserver-parallel"
    parallel_workers = 2


def installed() -> Path:
    """Install MLServer where it is not yet; return its folder of programs."""
    return environment.made(FOLDER, (*PACKAGES, *(f"{name}=={metadata.version(name)}" for name in SHARED)))
