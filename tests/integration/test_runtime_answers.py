"""Models of every runtime by one worker: what each library says of 1,000 rows is answered, in requests of mixed sizes, by both clients."""

import itertools

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import StandardScaler

from mutirao import Client
from mutirao_worker.models.repository import Repository
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.worker_process import Fleet, WorkerProcess

lightgbm = pytest.importorskip("lightgbm", exc_type=ImportError)
onnxruntime = pytest.importorskip("onnxruntime", exc_type=ImportError)
skl2onnx = pytest.importorskip("skl2onnx", exc_type=ImportError)
skops = pytest.importorskip("skops.io", exc_type=ImportError)
xgboost = pytest.importorskip("xgboost", exc_type=ImportError)

ROWS = 1000
FITTED = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
DATA = np.random.default_rng(1).standard_normal((ROWS, 4)).astype(np.float32)
LABELS = np.digitize(FITTED[:, 0] + FITTED[:, 1], [-0.5, 0.5])
COLUMNS = ["a", "b", "c", "d"]
# The largest difference that a batch may make; 0 for no bit.
TOLERANCE = {"onnx": 1e-6}


def _saved(folder):
    """Save a model of each runtime; return the files of each, and what its library says of the rows."""
    scaler = StandardScaler().fit(FITTED)
    joblib.dump(scaler, folder / "scaler.pkl")
    chained = xgboost.XGBClassifier(n_estimators=10).fit(scaler.transform(FITTED), LABELS)
    chained.save_model(folder / "xgboost.json")
    yield "xgboost", ["scaler.pkl", "xgboost.json"], {"predict": chained.predict(scaler.transform(DATA)), "predict_proba": chained.predict_proba(scaler.transform(DATA))}  # fmt: skip

    rows = xgboost.DMatrix(pd.DataFrame(FITTED, columns=COLUMNS), LABELS)
    booster = xgboost.train({"objective": "multi:softprob", "num_class": 3}, rows, 10)
    booster.save_model(folder / "booster.ubj")
    yield "booster", ["booster.ubj"], {"predict": booster.predict(xgboost.DMatrix(pd.DataFrame(DATA, columns=COLUMNS)))}

    light = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1).fit(FITTED, LABELS)
    light.booster_.save_model(folder / "lightgbm.txt")
    yield "lightgbm", ["lightgbm.txt"], {"predict": light.predict(DATA), "predict_proba": light.predict_proba(DATA)}

    forest = RandomForestClassifier(10, random_state=0).fit(FITTED, LABELS)
    skops.dump(forest, folder / "forest.skops")
    yield "skops", ["forest.skops"], {"predict": forest.predict(DATA), "predict_proba": forest.predict_proba(DATA)}

    raw = skl2onnx.to_onnx(forest, FITTED[:1], options={"zipmap": False}).SerializeToString()
    (folder / "forest.onnx").write_bytes(raw)
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    yield "onnx", ["forest.onnx"], dict(zip(names, session.run(None, {"X": DATA}), strict=True))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A worker of two processes that serves them all, a gateway, and what is expected of each."""
    folder = tmp_path_factory.mktemp("runtimes")
    repository, expected = Repository(folder / "models"), {}
    for name, files, answers in _saved(folder):
        trust = ["sklearn.tree._tree.Tree"] if name == "skops" else []
        repository.add(name, *(folder / file for file in files), trust=trust, max_batch_rows=64)
        expected[name] = answers
    with (
        RedisServer() as server,
        WorkerProcess(server.url, repository.root, concurrency=2) as worker,
        GatewayProcess(server.url) as gateway,
    ):
        yield Fleet(server, repository, worker), gateway, expected


@pytest.mark.parametrize("front", ["redis", "http"])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_every_row_is_answered_as_its_library_answers(served, front):
    """1,000 rows of each model, requests of 1 to 40 rows of all models in turn: equal to the bit, or within what ONNX may differ by."""
    fleet, gateway, expected = served
    generator = np.random.default_rng(2)
    bounds = np.minimum(np.cumsum([0, *generator.integers(1, 41, 100)]), ROWS)
    parts = [slice(start, end) for start, end in itertools.pairwise(bounds) if start < end]
    assert parts[-1].stop == ROWS
    with fleet.client() if front == "redis" else Client(gateway.url) as client:
        asked = [(part, name) for part in parts for name in expected]
        jobs = [client.submit(name, _inputs(name, part)) for part, name in asked]
        for (part, name), job in zip(asked, jobs, strict=True):
            found = job.result(timeout=60)
            assert set(found) == set(expected[name])
            for output, values in expected[name].items():
                np.testing.assert_allclose(found[output], values[part], rtol=0, atol=TOLERANCE.get(name, 0))


def _inputs(name, part):
    return pd.DataFrame(DATA[part], columns=COLUMNS) if name == "booster" else DATA[part]
