"""A stock Celery client in a process that cannot import this project: what any other producer sees.

with StockClient(url) as stock:
    stock.run("answer = app.send_task('mutirao.predict', ['iris', [[1, 2, 3, 4]]], queue='mutirao.iris').get(timeout=9)")
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Self

import msgspec

from support import brokers

# Reads one JSON string of code a line, runs it, writes {"answer": ...} or {"raised": ..., "text": ...} as one line.
PROGRAM = """
import json, os, sys, traceback

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mutirao", "mutirao_worker"):
            raise ModuleNotFoundError(f"{name} is not there for a stock client", name=name)

sys.meta_path.insert(0, Blocker())
from celery import Celery, group
from celery.result import AsyncResult

app = Celery("somebody-else", broker=os.environ["BROKER"], backend=os.environ["RESULTS"])

def ask(data, model="iris", **options):
    return app.send_task("mutirao.predict", args=[model, data], queue=f"mutirao.{model}", **options)

for line in sys.stdin:
    space = {"app": app, "ask": ask, "group": group, "AsyncResult": AsyncResult}
    try:
        exec(json.loads(line), space)
        assert not any(name.partition(".")[0].startswith("mutirao") for name in sys.modules)
        said = {"answer": space.get("answer")}
    except Exception as exc:
        said = {"raised": type(exc).__name__, "text": str(exc), "module": type(exc).__module__, "where": traceback.format_exc()}
    print(json.dumps(said, default=str), flush=True)
"""


class Raised(Exception):
    """What the stock client's code raised."""

    def __init__(self, name: str, text: str, module: str, where: str) -> None:
        super().__init__(f"{name}: {text}\n{where}")
        self.name, self.text, self.module = name, text, module


class StockClient:
    """Starts in the constructor; use it as a context manager."""

    def __init__(self, broker: str, results: str | None = None) -> None:
        given = brokers.broker_of(broker) if results is None else {"broker_url": broker}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "BROKER": given["broker_url"], "RESULTS": results or broker},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.run("answer = None")  # what follows finds it started

    def run(self, code: str) -> Any:
        """Run code that may use app, ask(data, model=, **options), group, AsyncResult; return its `answer`.

        Raises:
            Raised: what the code raised.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(code).decode() + "\n")
        self._process.stdin.flush()
        said = msgspec.json.decode(self._process.stdout.readline())
        if "raised" in said:
            raise Raised(said["raised"], said["text"], said["module"], said["where"])
        return said["answer"]

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
