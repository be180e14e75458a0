"""Files that are no models, or another version's: each is refused with what it is and what to do, and nothing is left behind."""

import gzip
import io
import json
import math
import pickle
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import LabelEncoder, StandardScaler

from mutirao import errors
from mutirao_worker.models.repository import Repository
from mutirao_worker.models.runtimes.sklearn import checks
from saved_by_1_3 import make
from support import sample_models

OLD = Path(make.__file__).parent
LABELS, DICTS = LabelEncoder().fit(["a", "b"]), DictVectorizer().fit([{"a": 1}])
ANSWERS = json.loads((OLD / "answers.json").read_text())
IRIS = sample_models.get("iris")
PICKLED = pickle.dumps(IRIS.model)


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


def tarred():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pkl"))
    return stream.getvalue()


OWN_CODE = "write a model.py of ten lines that loads it: mutirao models init NAME"
FOREIGN = {
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(512), f"is an HDF5 file, as Keras saves models: {OWN_CODE}"),
    "new.keras": (zipped("metadata.json", "model.weights.h5"), f"is a Keras model: {OWN_CODE}"),
    "net.pt": (zipped("net/data.pkl", "net/version"), "is a PyTorch file, of weights or of a module: export the module with torch.export.save, or write a model.py"),
    "script.pt": (zipped("net/data.pkl", "net/constants.pkl"), "is a TorchScript program: export it with torch.export.save, or write a model.py"),
    "stub.pt": (b"PK\x03\x04" + bytes(300), "is a zip archive that is cut short or damaged: copy it again"),
    "old.pt": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M", "is a PyTorch file: export it"),
    "arrays.npz": (zipped("a.npy", "b.npy"), "is numpy arrays in an npz archive: it holds no model"),
    "models.zip": (zipped("model.joblib"), "is a zip archive: unpack it first"),
    "models.tar": (tarred(), "is a tar archive: unpack it first"),
    "model.cbm": (b"CBM1" + bytes(300), f"is a CatBoost model: {OWN_CODE}"),
    "xgb.bin": (b"binf" + bytes(300), "is an XGBoost model in its old binary form: load it with the xgboost that saved it (before 3.1), and save it again with save_model('model.ubj')"),
    "net.safetensors": (len(b'{"a":1}').to_bytes(8, "little") + b'{"a":1}', f"is a safetensors file: {OWN_CODE}"),
    "lite.tflite": (b"\x1c\0\0\0TFL3" + bytes(20), f"is a TensorFlow Lite model: {OWN_CODE}"),
    "m.json": (b' {"a": 1}', "is JSON: it holds no model"),
    "m.pmml": (b'<?xml version="1.0"?><PMML version="4.4"></PMML>', f"is a PMML document: {OWN_CODE}"),
    "pointer.pkl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64, "is a Git LFS pointer, and not the file itself: fetch it with git lfs pull"),
    "page.pkl": (b"\n<!DOCTYPE html><html>404</html>", "is a web page, as a failed download leaves it: download the file again"),
    "empty.pkl": (b"", "is empty: save the model again"),
    "array.npy": (b"\x93NUMPY\x01\0", "is a numpy array"),
    "lz.joblib": (b"\x04\x22\x4d\x18" + bytes(20), "is compressed with lz4: save it again"),
    "cut.pkl": (PICKLED[:-40], "does not load: it is cut short"),
    "cut.pkl.gz": (gzip.compress(PICKLED)[:-40], "does not load: it is cut short"),
    "notes.txt": (b"this is my model", "does not load: it is neither joblib's nor pickle's, it begins with b'this is '"),
    "script.pkl": (b"import os\n", "does not load: it is neither joblib's nor pickle's"),
    "noise.pkl": (b"\xfe\xfd\xfc" * 9, "does not load: it is neither joblib's nor pickle's"),
}  # fmt: skip


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "models")


def refusal(repository, path):
    with pytest.raises(errors.RepositoryError) as caught:
        repository.add("m", path)
    assert repository.names() == ()
    assert [each.name for each in repository.root.rglob("*") if each.name != ".lock"] == []
    return str(caught.value)


@pytest.mark.parametrize("name", FOREIGN)
def test_another_format_is_named(repository, tmp_path, name):
    """A file of another format, or a damaged one, is refused with what it is and what to do."""
    raw, says = FOREIGN[name]
    (tmp_path / name).write_bytes(raw)
    assert f"{tmp_path / name} {says}" in refusal(repository, tmp_path / name)


HOLDS = {
    "dict": ({"model": IRIS.model, "scaler": StandardScaler(), "columns": ["a"]}, "a dict of 'model' (LogisticRegression), 'scaler' (StandardScaler), 'columns' (list), not a scikit-learn estimator: add its steps with --steps scaler,model"),
    "tuple": ((TfidfVectorizer(), IRIS.model), "a tuple of 0 (TfidfVectorizer), 1 (LogisticRegression), not a scikit-learn estimator: add its steps with --steps 0,1"),
    "dicts": ((DICTS, IRIS.model), "a tuple of 0 (DictVectorizer), 1 (LogisticRegression), not a scikit-learn estimator: add its steps with --steps 0,1"),
    "labels beside": ((LABELS, IRIS.model), "a tuple of 0 (LabelEncoder), 1 (LogisticRegression), not a scikit-learn estimator: add its steps with --steps 1 --labels 0"),
    "score beside": ((IRIS.model, 0.93), "a tuple of 0 (LogisticRegression), 1 (float), not a scikit-learn estimator: add its steps with --steps 0"),
    "labels": (LABELS, "a LabelEncoder, which encodes labels and predicts nothing: save the classifier"),
    "array": (np.ones(3), "a ndarray of numpy, not a scikit-learn estimator"),
    "class": (LogisticRegression, "the class LogisticRegression itself"),
    "number": (7, "a int, not a scikit-learn estimator: save the fitted estimator or pipeline"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOLDS)
def test_what_is_inside_is_told(repository, tmp_path, kind):
    """A file that holds no estimator is refused with what it holds."""
    held, says = HOLDS[kind]
    joblib.dump(held, tmp_path / "m.pkl")
    assert f"the file holds {says}" in refusal(repository, tmp_path / "m.pkl")


def test_a_module_that_is_not_there_is_named(repository, tmp_path):
    """A module that is missing is named, with where to put it."""
    raw = PICKLED.replace(b"sklearn.linear_model._logistic", b"nowhere.linear_model._logistic")
    assert len(raw) == len(PICKLED)
    (tmp_path / "m.pkl").write_bytes(raw)
    assert "it needs the module 'nowhere': install it where the workers run" in refusal(repository, tmp_path / "m.pkl")


class Fitted(BaseEstimator):  # type: ignore[misc]
    """Its own check for being fitted is broken, and so is a property that is asked for."""

    n_features_in_ = 2

    def fit(self, X, y=None):  # noqa: N803, ARG002
        return self

    def __sklearn_is_fitted__(self):
        raise AttributeError("no such thing")

    def predict(self, X):  # noqa: N803
        return X.sum(axis=1)


class Broken(Fitted):
    @property
    def feature_names_in_(self):
        raise RuntimeError("out of order")


class Busy(Fitted):
    @property
    def n_jobs(self):
        raise RuntimeError("busy")


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "test_model_files", sys.modules[__name__])


@pytest.mark.usefixtures("importable")
def test_a_broken_check_is_no_traceback(repository, tmp_path):
    """An estimator whose own check for being fitted raises is tried; one whose properties raise is refused in a line."""
    for model in (Fitted(), Busy()):
        joblib.dump(model, tmp_path / "m.joblib")
        repository.add("m", tmp_path / "m.joblib")
        assert repository.verify("m") == []
        repository.load("m").set_threads(1)
    repository.remove("m")
    joblib.dump(Broken(), tmp_path / "m.joblib")
    assert "cannot be looked at: RuntimeError: out of order" in refusal(repository, tmp_path / "m.joblib")


@pytest.mark.parametrize("name", [*make.REFUSED, "two_targets"])
def test_trees_of_another_version_are_refused(repository, name):
    """Classification trees that scikit-learn 1.3.2 saved, which hold counts, are refused wherever they stand, with the version."""
    said = refusal(repository, OLD / f"{name}.joblib")
    assert f"saved with scikit-learn 1.3.2, this is {sklearn.__version__}: install that version for its worker, or save it again" in said  # fmt: skip


def test_a_worker_refuses_them_too(repository, tmp_path):
    """A version that was added before is unavailable, with the same words, and verify says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "refuse_old_trees", lambda *_: None)
        patch.setattr(checks, "check_outputs", lambda *_: None)
        repository.add("m", OLD / "forest.joblib")
    with pytest.raises(errors.ModelUnavailable, match=r"saved with scikit-learn 1\.3\.2, this is"):
        repository.load("m")
    assert "saved with scikit-learn 1.3.2" in repository.verify("m")[0].text


@pytest.mark.parametrize("name", ["linear", "regression_forest"])
def test_what_is_read_alike_is_served(repository, name):
    """What another version saved is served where it is read as it was: with a note, and the same answers."""
    info = repository.add("m", OLD / f"{name}.joblib")
    assert info.reason.startswith("saved with scikit-learn 1.3.2, loaded with")
    answer = repository.load("m").predict({"X": make.DATA[::50]}, info.signature.select_outputs(["predict"]))["predict"]
    assert np.allclose(answer, ANSWERS[name])


def test_what_no_longer_loads_names_the_version(repository):
    """A file whose classes have moved since is refused with the version that it needs, and not with a module's name."""
    said = refusal(repository, OLD / "gradient_boosting.joblib")
    assert "does not load: saved with scikit-learn 1.3.2, this is" in said


class Doubtful(BaseEstimator):  # type: ignore[misc]
    """A classifier of one label whose answers cannot be right."""

    classes_ = np.array([0, 1])
    n_features_in_ = 2

    def __init__(self, label=0, total=1.0, first=0.5):
        self.label, self.total, self.first = label, total, first

    def fit(self, X, y=None):  # noqa: N803, ARG002
        self.fitted_ = True
        return self

    def predict(self, X):  # noqa: N803
        return np.full(len(X), self.label)

    def predict_proba(self, X):  # noqa: N803
        return np.full((len(X), 2), [self.first, self.total - self.first])


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"total": 26.0}, "it gives probabilities that sum to 26, and not to 1"),
        ({"first": -1.0}, r"it gives -1 as a probability \(row 0\), which is not within 0 and 1"),
        ({"first": math.nan}, r"it gives nan as a probability \(row 0\), which is not within 0 and 1"),
        ({"label": 7}, "it predicts the label 7, which is not among its classes"),
    ],
)
def test_a_trial_looks_at_the_answers(repository, tmp_path, given, says):
    """Probabilities that are none or do not sum to 1, and labels that are no class, are seen when a model is added, verified and warmed up."""
    joblib.dump(Doubtful(**given).fit(None), tmp_path / "m.joblib")
    assert re.search(says, refusal(repository, tmp_path / "m.joblib"))
    joblib.dump(Doubtful().fit(None), tmp_path / "m.joblib")
    repository.add("m", tmp_path / "m.joblib")
    loaded = repository.load("m")
    loaded.warm_up()
    loaded._loaded.estimator.set_params(**given)
    with pytest.raises(errors.InvalidOutput, match=says):
        loaded.warm_up()
