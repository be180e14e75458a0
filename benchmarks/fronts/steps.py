"""What a request costs the gateway's process, by step: its stacks are sampled by CPU time, and each belongs to one step."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from workload import Workload

from fronts import load, wire
from fronts.gateway import Gateway
from fronts.rounds import spent

HERE = Path(__file__).parent.parent
Frame = tuple[str, str, int]

# A stack belongs to the step of its innermost frame that has one; redis-py and Python's library work for whoever called them.
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("HTTP: parse requests, write answers", ("uvicorn", "httptools", "h11", "granian")),
    ("route: find the handler", ("litestar", "mutirao.gateway.app", "mutirao.gateway.endpoint")),
    ("let in: key, limits, count", ("mutirao.gateway.middleware", "mutirao.gateway.auth", "mutirao.gateway.state.metrics", "mutirao.redisdb.refreshed_value", "mutirao.api_keys")),
    ("decode: read the body", ("mutirao.gateway.requests", "mutirao.gateway.state.process_pool")),
    ("check: by the model's signature", ("mutirao.wire.signature", "mutirao.wire.tensors", "mutirao.wire.binary_codec")),
    ("encode: the message for the worker", ("mutirao.client.encoding", "mutirao.client.request_data", "mutirao.wire.messages")),
    ("submit: gather, call Redis", ("mutirao.gateway.state.coalescer", "mutirao.gateway.submit", "mutirao.client.redis_backend", "mutirao.operation_loop", "mutirao.redisdb")),
    ("reply: read and decode results, wake", ("mutirao.client.result_listener", "mutirao.client.waiter", "mutirao.gateway.streams", "mutirao.client.job")),
    ("answer: pass the result on", ("mutirao.gateway.responses",)),
    ("handle: what stands between these", ("mutirao",)),
    ("event loop, sockets", ("",)),
)  # fmt: skip
_BETWEEN = ("redis", "asyncio", "python")
# What runs the event loop: frames outside it are the same for all, and say nothing.
_LOOP = ("asyncio_run", "Runner.run", "BaseEventLoop._run_once", "BaseEventLoop.run_until_complete", "Server.run")


class Sampled(Gateway):
    """The same, its gateway under a sampler."""

    name: ClassVar[str] = "mutirao-sampled"

    @property
    def file(self) -> Path:
        return self.folder / "gateway.json"

    def command(self) -> list[str]:
        python, _, *rest = super().command()
        return [python, str(HERE / "sampled.py"), str(self.file), *rest]

    def sample(self, requests: list[bytes], connections: int, seconds: float) -> load.Load:
        """Ask for so many seconds while the gateway is sampled."""
        (gateway,) = self.processes()["server"]
        os.kill(gateway, signal.SIGUSR1)
        found = load.drive(self.port, requests, connections=connections, seconds=seconds)
        os.kill(gateway, signal.SIGUSR2)
        deadline = time.monotonic() + 10
        while not self.file.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("the gateway did not write its sample")
            time.sleep(0.02)
        return found


@dataclass(frozen=True)
class Budget:
    """CPU microseconds of the gateway for each request: by step, and by function, most first.

    Attributes:
        lines: (step, function, microseconds) of the frames that were found working.
        stacks: as sampled.py wrote them.
    """

    model: str
    rate: float
    total_us: float
    steps: list[tuple[str, float]]
    lines: list[tuple[str, str, float]]
    stacks: list[tuple[int, list[Frame]]]


def taken(workload: Workload, folder: Path, connections: int, seconds: float) -> Budget:
    """Start a gateway with its fleet, ask, and add up where its CPU time went."""
    folder.mkdir()
    gateway = Sampled(workload, folder)
    try:
        gateway.start()
        requests = wire.requests(workload, gateway.port)
        load.drive(gateway.port, requests, connections=connections, seconds=1)
        before = spent(gateway)["server"]
        found = gateway.sample(requests, connections, seconds)
        cpu_s = spent(gateway)["server"] - before
        stacks = json.loads(gateway.file.read_text())
        lost, wrong, said = wire.missing(workload, found.answers, found.sent)
        if lost or wrong:
            raise RuntimeError(f"{lost} of {found.sent} requests lost or refused, {wrong} wrong while sampled: {said}")
    finally:
        gateway.stop()
    return budget(workload.name, len(found.answers) / seconds, 1e6 * cpu_s / len(found.answers), stacks)


def budget(model: str, rate: float, total_us: float, stacks: Sequence[tuple[int, list[Frame]]]) -> Budget:
    """Share the CPU time out among steps and functions."""
    shares, lines = Counter[str](), Counter[tuple[str, str]]()
    for count, stack in stacks:
        if stack and stack[0][1] == "look":  # the sampler itself
            continue
        name, frame = _step(stack)
        shares[name] += count
        lines[name, frame] += count
    unit = total_us / max(1, shares.total())
    return Budget(
        model,
        rate,
        total_us,
        [(name, unit * shares[name]) for name, _ in STEPS],
        [(*key, unit * count) for key, count in lines.most_common()],
        list(stacks),
    )


def _step(stack: Iterable[Frame]) -> tuple[str, str]:
    """Name the step of a stack, and the function that took it there."""
    for file, function, _ in stack:
        if function in _LOOP:
            break
        module = module_of(file)
        if module.partition(".")[0] in _BETWEEN:
            continue
        for name, prefixes in STEPS[:-1]:
            if any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes):
                return name, f"{module.removeprefix('mutirao.')}.{function}"
    return STEPS[-1][0], ""


def module_of(file: str) -> str:
    """Name the module of a file: ours and what is installed by its package, Python's own as python."""
    path = Path(file)
    for root in ("site-packages", "producer", "worker"):
        if root in path.parts:
            inner = path.with_suffix("").parts[len(path.parts) - path.parts[::-1].index(root) :]
            return ".".join(inner)
    return "asyncio" if "asyncio" in path.parts else "python"
