"""The Celery app that one writes by hand, as careful as the guides have it: late acknowledgement, everything else by default.

It imports nothing of this project; what it is asked for is what `trial_load.py` asks of mutirão too.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from celery import Celery

app = Celery("plain", broker=os.environ.get("PLAIN_URL"), backend=os.environ.get("PLAIN_URL"))
app.conf.update(task_acks_late=True, broker_connection_retry_on_startup=True)


@cache
def _model(name: str) -> Any:
    return joblib.load(Path(os.environ["PLAIN_MODELS"]) / f"{name}.joblib")


@app.task(name="predict")  # type: ignore[untyped-decorator]
def predict(model: str, rows: list[list[float]]) -> Any:
    return _model(model).predict(np.asarray(rows)).tolist()
