"""Workers come and go while requests keep coming."""

import itertools
import sys
import threading
import time

import numpy as np
import pytest

from compose.stack import missing
from support import sample_models, waiting

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

ROWS = 10
UNANSWERED = 90


class Load:
    """Submits rows of all sample models, with so many unanswered at a time, until it is told to stop."""

    def __init__(self, client):
        self.client = client
        self.sent = []
        self.failure = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()

    def wait_answered_by(self, workers):
        """Wait until so many workers have answered what was sent from now on."""
        seen: set[str] = set()
        first = len(self.sent)

        def enough():
            nonlocal first
            until = max(first, len(self.sent) - UNANSWERED)
            seen.update(job.record().job.worker for _, _, job in self.sent[first:until])
            first = until
            return self.failure or len(seen) >= workers

        waiting.until(enough, timeout_s=180, what=lambda: seen)

    def wrong(self):
        """Every answer that is not the model's own."""
        return [(name, row, job.id) for name, row, job in self.sent if not right(name, row, job.result(timeout=240))]

    def _run(self):
        try:
            for start in itertools.count(step=ROWS):
                for name in sample_models.GOOD:
                    self._submit(name, start)
                for _, _, job in self.sent[:-UNANSWERED][-ROWS * len(sample_models.GOOD) :]:
                    job.result(timeout=240)
                if self._stop.is_set():
                    return
        except Exception as exc:  # noqa: BLE001 - told by the test
            self.failure = exc

    def _submit(self, name, start):
        data = sample_models.get(name).data
        first = start % (len(data) - ROWS)
        jobs = self.client.submit_many(name, data[first : first + ROWS])
        self.sent += [(name, first + at, job) for at, job in enumerate(jobs)]


def right(name, row, outputs):
    """Whether a label is the model's own, and the probabilities are to the last bits (the versions of numpy may differ)."""
    sample = sample_models.get(name)
    near = np.allclose(outputs["predict_proba"][0], sample.expected("predict_proba")[row], rtol=1e-12, atol=0)
    return bool(near and outputs["predict"][0] == sample.expected()[row])


def test_scaling_under_load_loses_nothing(stack, capsys):
    """From one worker to four and back while requests come: new ones take their share, every request is answered rightly."""
    stack.up(workers=1)
    began = time.monotonic()
    with stack.client() as client, Load(client) as load:
        load.wait_answered_by(1)
        stack.up(workers=4)
        load.wait_answered_by(4)
        stack.up(workers=1)
        load.wait_answered_by(1)
        load.__exit__()
        assert load.failure is None
        assert load.wrong() == []
        records = [job.record() for _, _, job in load.sent]
    attempts = [record.job.attempts for record in records]
    waited = sorted(record.job.started_at - record.job.queued_at for record in records)
    figures = (
        f"{len(records)} requests in {time.monotonic() - began:.0f} s, {sum(attempts) - len(attempts)} run again; "
        f"waited: median {waited[len(waited) // 2]:.1f} s, longest {waited[-1]:.1f} s"
    )
    with capsys.disabled():
        sys.stdout.write(f"\nscaled 1 -> 4 -> 1 under load: {figures}\n")
    assert stack.refused() == []
