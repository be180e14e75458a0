"""Submit 150 rows in one round trip, and take the answers in the order in which they come."""

import sys

from sklearn.datasets import load_iris

from mutirao import Client, MutiraoError

rows, labels = load_iris(return_X_y=True)

try:
    with Client() as client:
        jobs = client.submit_many("iris", rows, priority="low", expires_s=600)
        label_of = dict(zip(jobs, labels, strict=True))
        right = sum(job.result()["predict"][0] == label_of[job] for job in client.as_completed(jobs, timeout=60))
except MutiraoError as exc:
    sys.exit(f"error: {exc}")

print(f"{len(jobs)} answers, {right} as labelled")
