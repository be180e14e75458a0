"""Files that crash, hang, exit, print or take all memory as they are loaded: refused by `add` in one sentence, and no worker suffers."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import psutil
import pytest
from sklearn.linear_model import LogisticRegression

from mutirao import Client, errors
from mutirao_worker.models import trial_process
from mutirao_worker.models.repository import Repository
from support import sample_models, waiting
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
    "is ended in real time": ("__import__('os').kill(__import__('os').getpid(), 40)", "was ended by signal 40"),
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


def test_what_a_file_has_started_ends_with_it(tmp_path, saved):
    """A process in a session of its own, which a file started as it was loaded, does not outlive the trial."""
    statement = f"(__import__('os').fork() or [__import__('os').setsid(), open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))]) and __import__('time').sleep(600)"
    with pytest.raises(errors.RepositoryError, match="did not end within 1 s"):
        Repository(tmp_path / "models", load_s=1.0).add("bad", saved(statement))
    pid = int((tmp_path / "pid").read_text())
    waiting.until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_an_answer_that_something_was_written_into_is_refused(tmp_path, saved, monkeypatch):
    """A file that writes to descriptors that are not its own gets the same sentence as one that crashes."""
    monkeypatch.setattr(trial_process.native_threads, "may_fork", lambda: True)
    monkeypatch.setattr(trial_process, "_tried", lambda _request: b"{}{}")
    with pytest.raises(errors.RepositoryError, match="wrote to a file descriptor that it did not open"):
        Repository(tmp_path / "models").add("bad", saved("1"))


def test_a_file_whose_name_is_no_utf_8_is_refused_by_its_name(tmp_path):
    """The message comes out of the throwaway process, with the name as far as it can be shown."""
    path = tmp_path / os.fsdecode(b"caf\xe9.joblib")
    path.write_bytes(b"nothing")
    with pytest.raises(errors.RepositoryError, match=r"caf.*does not load|caf.* is "):
        Repository(tmp_path / "models").add("bad", path)


def _by_server(tmp_path, monkeypatch, example):
    monkeypatch.setattr(trial_process.native_threads, "may_fork", lambda: False)
    joblib.dump(fitted(), tmp_path / "good.joblib")
    return Repository(tmp_path / "models").add("good", tmp_path / "good.joblib", example=example)


def test_an_example_that_cannot_be_sent_is_refused(tmp_path, monkeypatch):
    """An example of a class that cannot be pickled is named; the next add is not hurt."""
    with pytest.raises(errors.RepositoryError, match="the example, a function, cannot be pickled"):
        _by_server(tmp_path, monkeypatch, lambda: None)
    assert _by_server(tmp_path, monkeypatch, [[1.0, 2.0]]).version == "1"


def test_after_an_interrupt_the_next_answer_is_its_own(tmp_path, monkeypatch):
    """Whoever is interrupted while a version is tried gets, for the next one, not the answer of the one before."""

    def interrupted(_stream):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trial_process, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _by_server(tmp_path, monkeypatch, [[1.0, 2.0]])
    joblib.dump([1], tmp_path / "bad.joblib")
    with pytest.raises(errors.RepositoryError, match="not a scikit-learn estimator"):
        Repository(tmp_path / "models").add("bad", tmp_path / "bad.joblib")


def test_a_trial_holds_up_no_other_change(tmp_path, saved):
    """While a file that hangs is tried, settings of another model are changed."""
    repository = Repository(tmp_path / "models", load_s=4.0)
    repository.add("good", sample_models.saved("iris"))
    with ThreadPoolExecutor(1) as executor:
        hanging = executor.submit(repository.add, "bad", saved("__import__('time').sleep(600)"))
        waiting.until(lambda: list(repository.root.glob(".adding-*/model.joblib")))
        repository.change("good", {"max_rows": "7"})
        assert not hanging.done()
        with pytest.raises(errors.RepositoryError, match="did not end within 4 s"):
            hanging.result()
    assert repository.manifest("good").max_rows == 7
    assert not list(repository.root.glob(".adding-*"))


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
