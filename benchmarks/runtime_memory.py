"""What a worker of several processes needs for one large model of each runtime: proportional set size (PSS), beside the model alone.

python benchmarks/runtime_memory.py [RUNTIME ...]: sklearn, xgboost, lightgbm, onnx. Fitting takes minutes, of boosters many.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
from accounting import tree

from mutirao import Client
from mutirao.embedded import redis_binary, redis_server
from mutirao.embedded.process_group import ProcessGroup
from mutirao_worker.models.repository import Repository

PROCESSES = 4
ROWS = np.random.default_rng(0).standard_normal((150_000, 20)).astype(np.float32)
NOISE = np.random.default_rng(1).integers(0, 2, len(ROWS))


def sklearn(folder: Path, size: int) -> Path:
    from sklearn.ensemble import ExtraTreesClassifier

    joblib.dump(ExtraTreesClassifier(size, n_jobs=-1, random_state=0).fit(ROWS, NOISE), folder / "model.joblib")
    return folder / "model.joblib"


def xgboost(folder: Path, size: int) -> Path:
    from xgboost import XGBClassifier

    model = XGBClassifier(
        n_estimators=size, max_depth=0, max_leaves=20_000, grow_policy="lossguide", min_child_weight=0
    )
    model.fit(ROWS, NOISE).save_model(folder / "model.ubj")
    return folder / "model.ubj"


def lightgbm(folder: Path, size: int) -> Path:
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(n_estimators=size, num_leaves=20_000, min_child_samples=1, verbose=-1).fit(ROWS, NOISE)
    model.booster_.save_model(folder / "model.txt")
    return folder / "model.txt"


def onnx(folder: Path, size: int) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    weights = [np.random.default_rng(at).standard_normal((size, size)).astype(np.float32) / size for at in range(4)]
    nodes = [helper.make_node("MatMul", [f"x{at}", f"w{at}"], [f"x{at + 1}"]) for at in range(4)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name in ("x0", "x4")]
    constants = [numpy_helper.from_array(each, f"w{at}") for at, each in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


# What makes a model of a size (trees, or the width of a layer), and the sizes of a small and of a large one.
MODELS: dict[str, tuple[Callable[[Path, int], Path], int, int]] = {
    "sklearn": (sklearn, 1, 33),
    "xgboost": (xgboost, 1, 150),
    "lightgbm": (lightgbm, 1, 150),
    "onnx": (onnx, 10, 5000),
}
_ALONE = """
import gc
import sys
from pathlib import Path
from mutirao_worker.models.repository import Repository
def resident():
    return sum(int(line.split()[1]) for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")) / 1024
repository = Repository(sys.argv[1])
repository.load("small").warm_up()
before = resident()
loaded = repository.load("large")
loaded.load()
loaded.set_threads(1)
loaded.warm_up()
gc.collect()
print(resident() - before)
"""


def main() -> None:
    print(f"{PROCESSES} processes | file MB | model alone MB | worker MB more than with a small one | copies")
    for name in sys.argv[1:] or MODELS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            save, few, many = MODELS[name]
            small = _repository(folder / "small", small=save(folder, few))
            both = _repository(folder / "both", small=save(folder, few))
            file = save(folder, many)
            Repository(both).add("large", file)
            alone = float(subprocess.run([sys.executable, "-c", _ALONE, both], capture_output=True, check=True).stdout)
            more = _worker_pss(folder / "run-both", both) - _worker_pss(folder / "run-small", small)
            print(f"{name:11} | {file.stat().st_size / 1e6:7.0f} | {alone:14.0f} | {more:36.0f} | {more / alone:.2f}")


def _repository(folder: Path, **files: Path) -> Path:
    repository = Repository(folder)
    for name, file in files.items():
        repository.add(name, file)
    return folder


def _worker_pss(folder: Path, models: Path) -> float:
    """Return the PSS in MB of a worker and its processes, once it no longer changes."""
    folder.mkdir()
    processes = ProcessGroup(folder / "watchdog.log")
    server = redis_server.RedisEndpoint(folder / "redis", redis_server.free_port())
    redis = processes.start(redis_server.command(redis_binary.find(), server, {}), stage=1, grace_s=5, log=folder / "redis.log", env=dict(os.environ))  # fmt: skip
    try:
        redis_server.wait_ready(server, ended=lambda: redis.poll() is not None)
        command = [str(Path(sys.executable).with_name("mutirao")), "worker", f"--concurrency={PROCESSES}"]
        env = {**os.environ, "MUTIRAO_BROKER_URL": server.url, "MUTIRAO_MODELS": str(models)}
        worker = processes.start(command, stage=0, grace_s=5, log=folder / "worker.log", env=env)
        with Client(server.url) as client:
            while not all(info.state == "ready" for info in client.models()) or not client.models():
                time.sleep(0.5)
        readings: list[float] = []
        while len(readings) < 4 or max(readings[-4:]) - min(readings[-4:]) > 2:
            time.sleep(2)
            readings.append(sum(_pss(process.pid) for process in tree([worker.pid])))
        return readings[-1]
    finally:
        processes.end()


def _pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
