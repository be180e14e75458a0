"""A producer that has Celery and nothing of mutirão: any language with a Celery client can do the same."""

import os
import sys

from celery import Celery

url = os.environ.get("MUTIRAO_BROKER_URL") or sys.exit(
    """MUTIRAO_BROKER_URL is not set: eval "$(mutirao env)" sets it"""
)
app = Celery(broker=url, backend=url)
result = app.send_task("mutirao.predict", args=["iris", [[5.1, 3.5, 1.4, 0.2]]], queue="mutirao.iris")

for output in result.get(timeout=30)["outputs"]:
    print(output["name"], output["shape"], output["data"])
