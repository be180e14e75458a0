"""Model files as people have them: each answers what its own application answers, or is refused with what it is and what to do."""

import json
import shutil
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest

from mutirao import errors
from mutirao.wire import messages, signature
from mutirao_worker.models.repository import Repository
from support import model_files

# By case: the files, what else is said, the rows, and which answer is right.
SERVED: dict[str, tuple[list[str], dict[str, Any], Any, str | None]] = {
    "scaler and model": (["scaler.pkl", "model.pkl"], {}, "numbers", "chain"),
    "names for labels": (["scaler.pkl", "model.pkl"], {"labels": "label_encoder.pkl"}, "numbers", "named"),
    "dict": (["dict.pkl"], {"picks": ["scaler", "model"]}, "numbers", "chain"),
    "vectorizer and model": (["vectorizer.pkl", "spam.pkl"], {}, model_files.TEXTS, "spam"),
    "whole numbers as text": (["int_as_text.joblib"], {"example": "grades.csv"}, "grades", "int_as_text"),
    "XGBoost, JSON": (["xgb.json"], {}, "numbers", "xgb"),
    "XGBoost, UBJSON": (["xgb.ubj"], {}, "numbers", "xgb"),
    "XGBoost, pickled": (["xgb.joblib"], {}, "numbers", "xgb"),
    "LightGBM, text": (["lgb.txt"], {}, "numbers", "lgb"),
    "LightGBM, pickled": (["lgb.joblib"], {}, "numbers", "lgb"),
    "scaler and XGBoost": (["scaler.pkl", "xgb.json"], {}, "numbers", None),
}
REFUSED = {
    "main_class.joblib": "its 'Ratio' was defined in the script or notebook that saved it",
    "main_function.joblib": "its 'double' was defined in the script or notebook that saved it",
    "dict.pkl": "add its steps with --steps scaler,model",
    "tuple.bin": "add its steps with --steps 0,1",
    "label_encoder.pkl": "encodes labels",
    "keras.h5": "an HDF5 file, as Keras saves models",
    "model.cbm": "a CatBoost model",
    "cut.onnx": "ONNX",
    "state.pt": "a zip archive",
    "pointer.pkl": "a Git LFS pointer, and not the file itself: fetch it with git lfs pull",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files, written by a script of their own."""
    path = tmp_path_factory.mktemp("files")
    subprocess.run([sys.executable, model_files.__file__, str(path)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))  # column_text, as PYTHONPATH gives it to workers
        yield path


@pytest.fixture(scope="module")
def expected(folder):
    answers = json.loads((folder / "expected.json").read_text())
    return {**answers, **answers.get("booster", {})}


@pytest.mark.parametrize("case", SERVED)
def test_a_file_answers_as_its_own_application_does(folder, expected, tmp_path, case):
    """Added by one command, it gives its own application's answers."""
    files, given, rows, answer = SERVED[case]
    given = {key: folder / value if isinstance(value, str) else value for key, value in given.items()}
    repository = Repository(tmp_path / "models")
    repository.add("m", *(folder / name for name in files), **given)
    loaded = repository.load("m")
    data = expected[rows] if isinstance(rows, str) else rows
    known = loaded.info.signature
    inputs = signature.decode_request("m", known, messages.read_request(data))
    found = loaded.predict(inputs, known.select_outputs(["predict"]))["predict"].tolist()
    assert found == expected[answer] if answer else len(found) == len(data)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_served_is_refused_in_words(folder, tmp_path, name):
    """It is named with what it is and what to do, and nothing is added."""
    repository = Repository(tmp_path / "models")
    with pytest.raises(errors.MutiraoError) as caught:
        repository.add("m", folder / name)
    assert str(folder / name) in str(caught.value) or "the file holds" in str(caught.value)
    assert REFUSED[name] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert repository.names() == ()


def test_classes_of_a_script_go_into_a_model_of_own_code(folder, expected, tmp_path):
    """A pickle of a class that a script defined is served once that class stands in a model.py, and nothing stays in place of __main__."""
    code = tmp_path / "ratio"
    code.mkdir()
    shutil.copy(folder / "main_class.joblib", code)
    (code / "model.py").write_text(OWN_CODE)
    script = sys.modules["__main__"]
    repository = Repository(tmp_path / "models")
    frame = pd.DataFrame(expected["numbers"], columns=["a", "b"])
    repository.add("ratio", code, example=frame)
    loaded = repository.load("ratio")
    found = loaded.predict({"a": frame["a"].to_numpy(), "b": frame["b"].to_numpy()}, loaded.info.signature.outputs)
    assert found["predict"].tolist() == expected["main_class"]
    assert sys.modules["__main__"] is script


OWN_CODE = """
import joblib
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin


class Ratio(TransformerMixin, BaseEstimator):
    def transform(self, X):
        return X.assign(r=X["a"] / (X["b"] + 1))


class Model:
    def load(self, folder):
        self.model = joblib.load(folder / "main_class.joblib")

    def predict(self, frame: pd.DataFrame):
        return self.model.predict(frame)
"""
