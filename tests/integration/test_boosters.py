"""Models whose libraries have threads of their own: loaded before the fork, they answer in every process, with its share of the cores."""

import joblib
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from mutirao_worker.models.repository import Repository
from mutirao_worker.process import native_threads
from support import probe_models, sample_models
from support.redis_servers import RedisServer
from support.worker_process import Fleet, WorkerProcess

lightgbm = pytest.importorskip("lightgbm", exc_type=ImportError)
xgboost = pytest.importorskip("xgboost", exc_type=ImportError)

OWN = 3
DATA = np.random.default_rng(0).random((200, 3))
LABELS = (DATA[:, 0] > DATA[:, 1]).astype(int)
MODELS = {
    "hist": HistGradientBoostingClassifier(max_iter=5),
    "lightgbm": lightgbm.LGBMClassifier(n_estimators=5, verbose=-1),
    "lightgbm-all": lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=-1),
    "lightgbm-four": lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=4),
    "xgboost": xgboost.XGBClassifier(n_estimators=5),
    "xgboost-four": xgboost.XGBClassifier(n_estimators=5, n_jobs=4),
}


@pytest.fixture(scope="module")
def boosted(tmp_path_factory):
    """A worker of one process, started with OMP_NUM_THREADS as a user may set it, which serves all of them and one of scikit-learn's."""
    folder = tmp_path_factory.mktemp("boosted")
    repository = sample_models.repository(folder / "models", "iris")
    for name, model in (MODELS | {"threads": probe_models.Threads()}).items():
        _add(repository, folder, name, model.fit(DATA, LABELS))
    with (
        RedisServer() as server,
        WorkerProcess(server.url, repository.root, env={"OMP_NUM_THREADS": str(OWN)}) as worker,
    ):
        yield Fleet(server, repository, worker)


def _add(repository: Repository, folder, name, model):
    joblib.dump(model, folder / f"{name}.joblib")
    repository.add(name, folder / f"{name}.joblib", example=DATA[:3])


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_boosters_answer_from_forked_processes(boosted):
    """XGBoost, LightGBM and scikit-learn's own boosting, beside each other and another model, answer as they do by themselves."""
    with boosted.client() as client:
        for name, model in MODELS.items():
            found = client.predict(name, DATA, outputs=["predict_proba"], timeout=30)["predict_proba"]
            assert np.allclose(found, model.predict_proba(DATA), atol=1e-6), name
        assert client.predict("iris", sample_models.get("iris").data, timeout=30)["predict"].tolist()


def test_a_users_own_number_of_threads_is_kept(boosted):
    """Who sets OMP_NUM_THREADS for a worker gets as many threads in each process, whatever the number of cores."""
    with boosted.client() as client:
        assert client.predict("threads", DATA, timeout=30)["predict"].max() == OWN


@pytest.mark.parametrize(
    ("processes", "asked", "expected"),
    [
        (1, {}, native_threads.cores()),
        (native_threads.cores(), {}, 1),
        (100, {}, 1),
        (1, {"OMP_NUM_THREADS": "5"}, 5),
        (100, {"OMP_NUM_THREADS": "5,2"}, 5),
        (100, {"OMP_NUM_THREADS": "many"}, 1),
        (100, {"OMP_NUM_THREADS": "0"}, 1),
    ],
)
def test_cores_are_shared(processes, asked, expected):
    """Each process gets its share of the cores, one at least; what a user says in OMP_NUM_THREADS wins."""
    assert native_threads.per_process(processes, asked) == expected
