"""A model of the oldest scikit-learn: a worker that has it answers as it does itself, and one with the newest leaves it to that one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn

from mutirao import Client
from support import sample_models, waiting
from support.worker_process import BIN, WorkerProcess

TREE = Path(__file__).parents[2]
OLDEST = TREE / ".cache" / "oldest"

pytestmark = [
    pytest.mark.executed,  # a forked worker has imported the newest already
    pytest.mark.skipif(not OLDEST.exists(), reason="make test-oldest installs what this needs"),
]

# A forest: its trees hold counts, which scikit-learn reads as fractions since 1.4, so no newer one can serve it.
SAVE = """
import json, sys
import joblib, sklearn
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
rows, labels = load_iris(return_X_y=True)
model = RandomForestClassifier(10, random_state=0).fit(rows, labels)
joblib.dump(model, sys.argv[1])
print(json.dumps([sklearn.__version__, rows.tolist(), model.predict_proba(rows).tolist()]))
"""


@pytest.fixture
def old_environment():
    """The variables of a process whose scikit-learn, numpy, scipy, pandas and joblib are the oldest."""
    return {"PYTHONPATH": f"{OLDEST}:{sample_models.PYTHONPATH}"}


def run(*command, **env):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_old_and_new_workers_share_a_repository(redis_server, tmp_path, old_environment):
    """Every answer of the old model is its own scikit-learn's, bit for bit; the new model is answered meanwhile; nothing fails."""
    root = sample_models.repository(tmp_path / "models", "iris").root
    saved = run(sys.executable, "-c", SAVE, str(tmp_path / "forest.joblib"), **old_environment)
    version, rows, expected = json.loads(saved)
    assert version != sklearn.__version__
    add = (str(BIN / "mutirao"), "models", "add", "forest", str(tmp_path / "forest.joblib"))
    run(*add, MUTIRAO_MODELS=str(root), **old_environment)
    with (
        WorkerProcess(redis_server.url, root) as new,
        WorkerProcess(redis_server.url, root, env=old_environment) as old,
        Client(redis_server.url) as client,
    ):
        log = new.wait_logged("mutirao.forest is left to the workers that can serve it: here ")
        assert "mutirao models env forest prints how to serve it" in log
        assert f"saved with scikit-learn {version}, this is {sklearn.__version__}" in log
        jobs = [client.submit("forest", [row], outputs=["predict_proba"]) for row in rows]
        iris = client.submit_many("iris", rows)
        answers = [job.result(30)["predict_proba"] for job in jobs]
        assert np.array_equal(np.concatenate(answers), np.array(expected))
        assert {job.record().job.worker for job in jobs} == {old.name}
        assert len([job.result(30) for job in iris]) == len(rows)
        waiting.until(lambda: client.catalog().models["forest"].state == "ready")
