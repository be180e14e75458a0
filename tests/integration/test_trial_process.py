"""Files that crash, hang, exit, print or take all memory as they are loaded: refused by `add` in one sentence, and no worker suffers."""

import os
import pickle

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mutirao import Client, errors
from mutirao_worker.models import trial_process
from mutirao_worker.models.repository import Repository
from support import sample_models
from support.worker_process import WorkerProcess

pytestmark = pytest.mark.processes

IN_A_PROCESS = trial_process.run  # as it is before tests are run, which try versions in their own process


class Runs:
    """Runs a statement as it is unpickled, and is an estimator then."""

    def __init__(self, statement):
        self.statement = statement

    def __reduce__(self):
        return eval, (f"[{self.statement}, __import__('pickle').loads({pickle.dumps(fitted())!r})][1]",)


def fitted():
    return LogisticRegression().fit(np.arange(8.0).reshape(4, 2), [0, 1, 0, 1])


BAD = {
    "hangs": ("__import__('time').sleep(600)", "did not end within 1 s"),
    "grows": (
        "[bytearray(1 << 24) for _ in range(40)] and __import__('time').sleep(9)",
        "took more than 200 MiB of memory",
    ),
    "exits": ("__import__('os')._exit(7)", "ended its process with exit code 7"),
    "leaves": ("__import__('sys').exit('bye')", "SystemExit: bye"),
    "crashes": ("__import__('os').kill(__import__('os').getpid(), 11)", "was ended by SIGSEGV"),
    "forks": ("__import__('os').fork() and __import__('time').sleep(600)", "did not end within 1 s"),
}


@pytest.fixture
def saved(tmp_path):
    def save(statement):
        joblib.dump(Runs(statement), tmp_path / "bad.joblib")
        return tmp_path / "bad.joblib"

    return save


@pytest.fixture(autouse=True)
def _in_a_process(monkeypatch):
    monkeypatch.setattr(trial_process, "run", IN_A_PROCESS)


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_bad_to_load_is_refused(tmp_path, saved, name):
    """It is refused with what it did, in this process nothing happens, and nothing is half added."""
    statement, says = BAD[name]
    repository = Repository(tmp_path / "models", load_s=1.0, load_memory=200 << 20)
    repository.add("good", sample_models.saved("iris"))
    before = os.getpid()
    with pytest.raises(errors.RepositoryError) as caught:
        repository.add("bad", saved(statement))
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'bad.joblib'} ")
    assert (os.getpid(), repository.names()) == (before, ("good",))
    assert not (tmp_path / "models" / "bad").exists()


HURTS = {
    "hangs": ("sleep(600)", "while it was loaded, it did not end within 1 s; MUTIRAO_LOAD_S"),
    "exits": ("__import__('os')._exit(7)", "while it was loaded, it ended its process with exit code 7"),
    "crashes": ("__import__('os').kill(__import__('os').getpid(), 11)", "while it was loaded, it was ended by SIGSEGV"),
}


def test_a_worker_serves_the_others(tmp_path, saved, redis_server):
    """Models that hang, exit or crash as a worker loads them, which they did not as they were added: it says so, and serves the other."""
    repository = sample_models.repository(tmp_path / "models", "iris")
    for name, (statement, _) in HURTS.items():
        condition = "__import__('os').environ.get('HURT') and "
        repository.add(name, saved(condition + statement.replace("sleep", "__import__('time').sleep")))
    with (
        WorkerProcess(redis_server.url, repository.root, env={"HURT": "1", "MUTIRAO_LOAD_S": "1"}),
        Client(broker_url=redis_server.url) as client,
    ):
        assert client.predict("iris", [[5.1, 3.5, 1.4, 0.2]], timeout=20)["predict"].tolist() == [0]
        for name, (_, says) in HURTS.items():
            with pytest.raises(errors.ModelUnavailable) as caught:
                client.predict(name, [[1.0, 2.0]], timeout=20)
            assert says in str(caught.value)
