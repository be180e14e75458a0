"""What other processes do with models: one that saved it, one that is killed as it adds it, one that it forks."""

import os
import subprocess
import sys
import textwrap

import pytest

from mutirao import errors
from mutirao_worker.models.repository import Repository
from support import sample_models


@pytest.fixture
def repository(tmp_path):
    return sample_models.repository(tmp_path / "models", "iris")


KILLED_ADDS = """
import os, sys
from mutirao_worker.models import trial_process
from mutirao_worker.models.repository import Repository
trial_process.run = trial_process.run_here  # what is killed is what adds
root, file = sys.argv[1:]
repository, seen = Repository(root), 0
repository.load("iris").warm_up()
def killed(step):
    def count(event, args):
        global seen
        if event in {"os.rename", "os.mkdir"} or (event == "open" and isinstance(args[0], str) and root in args[0]):
            seen += 1
            if seen == step:
                os._exit(9)
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.addaudithook(count)
    repository.add("iris", file)
    os._exit(0)
for step in range(1, 60):
    before = repository.info("iris").version
    code = killed(step)
    info = repository.info("iris")
    print(step, code, info.state, info.version == before, info.version in os.listdir(root + "/iris"))
    if code == 0:
        break
"""


def test_a_killed_add_is_never_half_visible(repository):
    """An add that is killed at any of its steps leaves the old version served or the new one whole, and the next add works."""
    command = [sys.executable, "-c", KILLED_ADDS, str(repository.root), str(sample_models.saved("iris"))]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    steps = [line.split()[1:] for line in lines]
    assert len(steps) > 8
    assert {(code, state) for code, state, *_ in steps} == {("9", "ready"), ("0", "ready")}
    assert steps[0][2] == "True"
    assert (steps[-1][2], {there for *_, there in steps}) == ("False", {"True"})
    assert [finding for finding in repository.verify("iris") if not finding.note] == []


def test_names_needs_no_heavy_library(repository):
    """Listing a repository and reading its manifests imports neither scikit-learn nor pandas."""
    code = (
        "import sys; from mutirao_worker.models.repository import Repository; r = Repository(sys.argv[1]); "
        "print(r.names(), r.info('iris').state, sorted({'sklearn', 'pandas', 'joblib'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(repository.root)], check=True, capture_output=True, text=True
    ).stdout
    assert out.strip() == "('iris',) ready []"


def test_a_class_of_a_script_is_told_to_move(tmp_path):
    """What was defined in __main__ can be installed nowhere: the remedy is a module of its own."""
    script = """
        import joblib
        from sklearn.base import BaseEstimator
        class Ratio(BaseEstimator):
            pass
        joblib.dump(Ratio(), "m.joblib")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=tmp_path)
    empty = Repository(tmp_path / "empty")
    with pytest.raises(errors.RepositoryError) as caught:
        empty.add("m", tmp_path / "m.joblib")
    assert empty.names() == ()
    assert [each.name for each in empty.root.rglob("*") if each.name != ".lock"] == []
    said = str(caught.value)
    assert "its 'Ratio' was defined in the script or notebook that saved it (__main__)" in said
    assert "or move it into a module, and fit and save the model again" in said
    assert "PYTHONPATH" not in said


FORKING = """
import sys
from mutirao_worker.inference import execution, interruption
from mutirao_worker.models.model_host import ModelHost
from mutirao_worker.models.repository import Repository
from support import pool_requests
host = ModelHost()
host.load(Repository(sys.argv[1]), ["forks"])
asked = [pool_requests.packed("forks", [row]) for row in (pool_requests.GOOD, pool_requests.MARKED)]
print([pool_requests.outputs_of(answer)["predict"].tolist() for answer in execution.run(host.find, asked, execution.ResultLimits(9)).results])
"""


def test_a_model_that_forks_answers_once(tmp_path):
    """Of a model that returns in two processes, the copy ends without a word."""
    root, note = sample_models.repository(tmp_path / "models", "forks").root, tmp_path / "note"
    env = os.environ | {"PYTHONPATH": sample_models.PYTHONPATH, "FORKS": str(note)}
    command = [sys.executable, "-c", FORKING, str(root)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[[12.0], [2.0]]\n"
    assert note.read_text(encoding="ascii") == f"{os.EX_SOFTWARE}\n"
