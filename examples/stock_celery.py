"""A client that has Celery and nothing of mutirão: any language with a Celery client can do the same."""

import os
import sys

from celery import Celery, exceptions
from kombu.exceptions import OperationalError

url = os.environ.get("MUTIRAO_BROKER_URL") or sys.exit('MUTIRAO_BROKER_URL is not set: eval "$(mutirao env)"')
app = Celery(broker=url, backend=url)
try:
    result = app.send_task("mutirao.predict", args=["iris", [[5.1, 3.5, 1.4, 0.2]]], queue="mutirao.iris")
    response = result.get(timeout=30)
except (OperationalError, RuntimeError, exceptions.TimeoutError):  # the second where Redis does not answer
    sys.exit("no answer from a worker: does mutirao up run, and serve the model iris?")

for output in response["outputs"]:
    print(output["name"], output["shape"], output["data"])
