"""The Celery app that one writes by hand: one task, one joblib.load, one predict per task. Worker and client import it."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import joblib
import numpy as np
from celery import Celery

# "import" loads before the pool forks, so that children share the pages; "first use" is what most tutorials do.
# The client sets neither and never loads it.
LOAD = os.environ.get("BENCH_LOAD", "")


def configured() -> Celery:
    """Make the app; a client makes more than one."""
    app = Celery("plain", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])
    app.conf.update(
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        result_expires=600,
        task_acks_late=True,
        task_serializer="json",
        worker_disable_rate_limits=True,
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
        worker_send_task_events=False,
    )
    return app


app = configured()


@cache
def _predict() -> Any:
    return getattr(joblib.load(os.environ["BENCH_MODEL"]), os.environ["BENCH_OUTPUT"])


if LOAD == "import":
    _predict()


@app.task(name="predict")  # type: ignore[untyped-decorator]
def predict(row: list[float]) -> Any:
    return _predict()(np.asarray([row]))[0].tolist()
