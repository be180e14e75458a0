"""Several files as one model: chained, with names for its labels; and what cannot be joined."""

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import LabelEncoder, StandardScaler

from mutirao import errors
from mutirao_worker.models.repository import Repository


def test_several_files_are_one_model_with_names_for_its_labels(tmp_path):
    """A scaler's file and a classifier's are chained, and a saved LabelEncoder gives the names back: each answer is what their own script gets."""
    rows, text = np.arange(24.0).reshape(12, 2) % 7, np.array(["nao", "sim"] * 6)
    scaler, encoder = StandardScaler().fit(rows), LabelEncoder().fit(text)
    model = LogisticRegression().fit(scaler.transform(rows), encoder.transform(text))
    paths = [tmp_path / f"{name}.pkl" for name in ("scaler", "model", "labels")]
    for path, each in zip(paths, (scaler, model, encoder), strict=True):
        joblib.dump(each, path)
    joblib.dump({"model": model, "scaler": scaler, "names": encoder}, tmp_path / "dict.pkl")
    repository = Repository(tmp_path / "models")
    repository.add("m", *paths[:2], labels=paths[2])
    repository.add("d", tmp_path / "dict.pkl", picks=["scaler", "model"], labels="names")
    for name, wanted in (
        ("m", encoder.inverse_transform(model.predict(scaler.transform(rows)))),
        ("d", encoder.inverse_transform(model.predict(scaler.transform(rows)))),
    ):
        loaded = repository.load(name)
        outputs = loaded.info.signature.select_outputs(["predict", "predict_proba"])
        answer = loaded.predict({"X": rows}, outputs)
        assert answer["predict"].tolist() == wanted.tolist()
        assert np.array_equal(answer["predict_proba"], model.predict_proba(scaler.transform(rows)))
    assert [step.file for step in repository.manifest("m").version.steps] == ["scaler.pkl", "model.pkl"]


@pytest.mark.parametrize(
    ("files", "given", "says"),
    [
        (["model", "scaler"], {}, "model.pkl holds a LogisticRegression, which does not transform: only the last step predicts, put it last"),
        (["scaler", "model", "labels"], {}, "labels.pkl holds a LabelEncoder, which encodes labels and is no step: give it with --labels"),
        (["dict"], {}, "a dict of 'model' (LogisticRegression), 'scaler' (StandardScaler), not a scikit-learn estimator: add its steps with --steps scaler,model"),
        (["dict"], {"picks": ["scale", "model"]}, "there is no 'scale' in it: it has 'model', 'scaler'"),
        (["scaler", "model"], {"picks": ["a"]}, "--steps picks from one file, got 2"),
        (["model"], {"labels": "scaler"}, "labels are a fitted encoder (LabelEncoder), a list of names"),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_joined_are_refused(tmp_path, files, given, says):
    """A wrong order, labels among the steps, a dict without a word or with a wrong key: refused, with what to do."""
    rows, y = np.arange(24.0).reshape(12, 2) % 7, [0, 1] * 6
    content = {
        "scaler": StandardScaler().fit(rows),
        "model": LogisticRegression().fit(rows, y),
        "labels": LabelEncoder().fit(["a", "b"]),
    }
    content["dict"] = {"model": content["model"], "scaler": content["scaler"]}
    for name, each in content.items():
        joblib.dump(each, tmp_path / f"{name}.pkl")
    if "labels" in given:
        given = {"labels": tmp_path / f"{given['labels']}.pkl"}
    repository = Repository(tmp_path / "models")
    with pytest.raises(errors.RepositoryError) as caught:
        repository.add("m", *(tmp_path / f"{name}.pkl" for name in files), **given)
    assert says in str(caught.value)
    assert repository.names() == ()
    assert not list((tmp_path / "models").glob("*/*"))
