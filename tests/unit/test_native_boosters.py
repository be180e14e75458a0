"""Native files of XGBoost and LightGBM: what a wrapper saved answers as the wrapper, any other as the booster."""

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import LabelEncoder, StandardScaler

from mutirao import errors
from mutirao.wire import signature
from mutirao_worker.models.repository import Repository

lightgbm = pytest.importorskip("lightgbm", exc_type=ImportError)
xgboost = pytest.importorskip("xgboost", exc_type=ImportError)

DATA = np.random.default_rng(0).random((300, 3))
TWO, THREE = (DATA[:, 0] > DATA[:, 1]).astype(int), (DATA[:, 0] * 3).astype(int)
NAMED = pd.DataFrame(DATA, columns=["a", "b", "ção"])
CATEGORIES = pd.DataFrame(
    {"a": DATA[:, 0], "city": pd.Categorical(np.where(DATA[:, 1] > 0.5, "recife", "natal")), "km": pd.Categorical((DATA[:, 2] * 4).astype(int) * 10)}
)  # fmt: skip
CODES = np.column_stack([DATA[:, 0], (DATA[:, 1] * 5).astype(int)])

# Newer versions of XGBoost say so of dart, gblinear and the forests.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


def _xgboost(cls, labels, data=DATA, **settings):
    groups = {"qid": np.repeat(range(30), 10)} if cls is xgboost.XGBRanker else {}
    model = cls(n_estimators=5, **settings).fit(data, labels, **groups)
    return model, model.save_model, data


def _booster(labels, data=DATA, objective="binary:logistic", **matrix):
    rows = xgboost.DMatrix(data, labels, enable_categorical=True, **matrix)
    booster = xgboost.train({"objective": objective, "num_class": 3 if "multi" in objective else 0}, rows, 5)
    return _Alone(booster.predict(rows)), booster.save_model, data


def _lightgbm(cls, labels, data=DATA, **settings):
    model = cls(n_estimators=5, verbose=-1, **settings).fit(data, labels)
    return model, model.booster_.save_model, data


class _Alone:
    """What a booster predicts by itself."""

    def __init__(self, predicted):
        self._predicted = predicted

    def predict(self, _):
        return self._predicted


CASES = {
    "two.json": lambda: _xgboost(xgboost.XGBClassifier, TWO),
    "three.ubj": lambda: _xgboost(xgboost.XGBClassifier, THREE, NAMED),
    "number.json": lambda: _xgboost(xgboost.XGBRegressor, DATA[:, 2]),
    "forest.json": lambda: _xgboost(xgboost.XGBRFClassifier, THREE),
    "rank.ubj": lambda: _xgboost(xgboost.XGBRanker, THREE),
    "dart.json": lambda: _xgboost(xgboost.XGBClassifier, THREE, CATEGORIES, booster="dart", enable_categorical=True),
    "linear.json": lambda: _xgboost(xgboost.XGBClassifier, THREE, booster="gblinear"),
    "categories.ubj": lambda: _xgboost(xgboost.XGBClassifier, TWO, CATEGORIES, enable_categorical=True),
    "booster.json": lambda: _booster(TWO),
    "booster-names.ubj": lambda: _booster(THREE, NAMED, "multi:softprob"),
    "booster-categories.ubj": lambda: _booster(TWO, CATEGORIES),
    "booster-codes.ubj": lambda: _booster(TWO, CODES, feature_types=["q", "c"]),
    "two.txt": lambda: _lightgbm(lightgbm.LGBMClassifier, TWO),
    "three.txt": lambda: _lightgbm(lightgbm.LGBMClassifier, THREE, NAMED),
    "ova.txt": lambda: _lightgbm(lightgbm.LGBMClassifier, THREE, objective="multiclassova"),
    "number.txt": lambda: _lightgbm(lightgbm.LGBMRegressor, DATA[:, 2], CATEGORIES),
    "categories.txt": lambda: _lightgbm(lightgbm.LGBMClassifier, THREE, CATEGORIES),
}


@pytest.mark.parametrize("name", CASES)
def test_a_native_file_answers_as_its_library(tmp_path, name):
    """Labels, probabilities and scores are those of the library to the bit, columns of text and numbers in for its categories."""
    model, save, data = CASES[name]()
    save(tmp_path / name)
    repository = Repository(tmp_path / "models")
    info = repository.add("m", tmp_path / name)
    assert info.signature.frame == isinstance(data, pd.DataFrame)
    answer = repository.load("m").predict(_inputs(data), info.signature.select_outputs(None))
    assert set(answer) == {method for method in ("predict", "predict_proba") if hasattr(model, method)}
    for method, values in answer.items():
        assert np.array_equal(values, getattr(model, method)(data)), method


def _inputs(data):
    if not isinstance(data, pd.DataFrame):
        return {"X": data}
    return {name: np.array(column.tolist(), dtype=None if name != "city" else object) for name, column in data.items()}


def test_a_category_that_was_not_fitted_on(tmp_path):
    """XGBoost refuses a row with it, as it does by itself; to LightGBM it is missing."""
    repository = Repository(tmp_path / "models")
    for name in ("categories.ubj", "categories.txt"):
        CASES[name]()[1](tmp_path / name)
        repository.add(name[11:], tmp_path / name)
    row = {"a": np.array([0.5]), "city": np.array(["olinda"], dtype=object), "km": np.array([10])}
    outputs = repository.info("ubj").signature.select_outputs(["predict"])
    with pytest.raises(errors.InvalidRequest, match=r"'city' is 'olinda', which is not among .*: 'natal', 'recife'"):
        repository.load("ubj").predict(row, outputs)
    absent = {**row, "city": np.array([None], dtype=object)}
    served = repository.load("txt")
    assert np.array_equal(served.predict(row, outputs)["predict"], served.predict(absent, outputs)["predict"])


def test_categories_that_xgboost_cuts_short_are_refused(tmp_path):
    """Names with letters beyond ASCII, which XGBoost does not save whole, are refused with what to save instead."""
    data = CATEGORIES.assign(city=CATEGORIES["city"].cat.rename_categories({"natal": "são luís"}))
    _xgboost(xgboost.XGBClassifier, TWO, data, enable_categorical=True)[1](tmp_path / "m.json")
    with pytest.raises(
        errors.RepositoryError, match=r"its column 'city' has categories .* XGBClassifier .* joblib.dump"
    ):
        Repository(tmp_path / "models").add("m", tmp_path / "m.json")


def test_a_scaler_and_names_of_labels_beside_it(tmp_path):
    """A scaler in a file of its own comes before a native file, and an encoder's file names what it predicts."""
    scaler, labels = StandardScaler().fit(DATA), LabelEncoder().fit(["não", "sim"])
    joblib.dump(scaler, tmp_path / "scaler.pkl")
    joblib.dump(labels, tmp_path / "labels.pkl")
    model, save, _ = _xgboost(xgboost.XGBClassifier, TWO, scaler.transform(DATA))
    save(tmp_path / "model.json")
    repository = Repository(tmp_path / "models")
    info = repository.add("m", tmp_path / "scaler.pkl", tmp_path / "model.json", labels=tmp_path / "labels.pkl")
    assert info.runtime == "sklearn + xgboost"
    answer = repository.load("m").predict({"X": DATA}, info.signature.select_outputs(None))
    assert answer["predict"].tolist() == labels.inverse_transform(model.predict(scaler.transform(DATA))).tolist()
    assert np.array_equal(answer["predict_proba"], model.predict_proba(scaler.transform(DATA)))


@pytest.mark.parametrize("name", ["two.json", "booster.json", "two.txt"])
def test_threads_are_capped(tmp_path, name):
    """A booster uses as many threads as its process has, and goes on answering."""
    CASES[name]()[1](tmp_path / name)
    repository = Repository(tmp_path / "models")
    info = repository.add("m", tmp_path / name)
    loaded = repository.load("m")
    loaded.set_threads(2)
    assert len(loaded.predict({"X": DATA}, info.signature.select_outputs(["predict"]))["predict"]) == len(DATA)
    loaded.warm_up()


def test_another_runtime_than_its_own_is_refused(tmp_path):
    """A pickle is no native file: the error names its runtime; a native file that is damaged is refused in a line."""
    repository = Repository(tmp_path / "models")
    joblib.dump(StandardScaler(), tmp_path / "m.pkl")
    (tmp_path / "m.json").write_bytes(b'{"learner":{}}')
    with pytest.raises(errors.RepositoryError, match="is a pickle, which the runtime 'sklearn' loads, not 'xgboost'"):
        repository.add("m", tmp_path / "m.pkl", runtime="xgboost")
    with pytest.raises(
        errors.RepositoryError,
        match=r"m.json does not load: it is damaged, or of a version that xgboost \S+ does not read: copy or save it again \(XGBoostError: .*\)$",
    ):
        repository.add("m", tmp_path / "m.json")


@pytest.mark.parametrize("kind", [lightgbm.LGBMClassifier, xgboost.XGBClassifier])
def test_a_saved_wrapper_takes_the_values_of_its_categories(tmp_path, kind):
    """A wrapper that was fitted on columns of pandas' categories and saved with joblib answers as it does in process."""
    model = kind(n_estimators=3, **({"enable_categorical": True} if kind is xgboost.XGBClassifier else {"verbose": -1}))
    model.fit(CATEGORIES, TWO)
    file = tmp_path / "m.joblib"
    joblib.dump(model, file)
    repository = Repository(tmp_path / "models")
    takes = repository.add("m", file).signature
    plain = CATEGORIES.astype({name: object for name in CATEGORIES if CATEGORIES[name].dtype == "category"})
    inputs = signature.validate("m", takes, signature.read(plain, takes))
    answers = repository.load("m").predict(inputs, takes.select_outputs(None))
    assert np.array_equal(answers["predict_proba"], model.predict_proba(CATEGORIES))
