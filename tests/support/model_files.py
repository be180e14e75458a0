"""python model_files.py FOLDER: write model files as people have them, and in expected.json what their own applications answer.

A program, so that its classes are those of a script (`__main__`), as in the files that people bring.
"""

import contextlib
import importlib
import json
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, OneHotEncoder, StandardScaler

ROWS = 60
TEXTS = ["ganhe um prêmio agora", "reunião às dez", "prêmio grátis", "almoço amanhã"]
RECORDS = [{"city": "recife", "km": 3.0}, {"city": "natal", "km": 9.0}]
FOREIGN = {
    "keras.h5": b"\x89HDF\r\n\x1a\n" + bytes(512),
    "model.cbm": b"CBM1" + bytes(300),
    "cut.onnx": b"\x08\x08\x12\x07skl2onnx" + bytes(200),
    "state.pt": b"PK\x03\x04" + bytes(300),
    "pointer.pkl": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n",
}


class Ratio(TransformerMixin, BaseEstimator):
    """A class of the script that fitted it."""

    def fit(self, X, y=None):  # noqa: ARG002, N803
        return self

    def transform(self, X):  # noqa: N803
        return X.assign(r=X["a"] / (X["b"] + 1))


def double(X):  # noqa: N803
    return X * 2


def write(folder):
    """Write every file; return what is to be answered, by the name of a case."""
    random = np.random.RandomState(0)
    frame = pd.DataFrame({"a": random.rand(ROWS), "b": random.rand(ROWS)})
    target = (frame.a > frame.b).astype(int)
    names = np.where(target == 1, "sim", "não")
    of_script = make_pipeline(Ratio(), LogisticRegression()).fit(frame, target)
    joblib.dump(of_script, folder / "main_class.joblib")
    joblib.dump(
        make_pipeline(FunctionTransformer(double), LogisticRegression()).fit(frame, target),
        folder / "main_function.joblib",
    )

    scaler, encoder = StandardScaler().fit(frame), LabelEncoder().fit(names)
    model = LogisticRegression().fit(scaler.transform(frame), encoder.transform(names))
    for name, each in {"scaler": scaler, "model": model, "label_encoder": encoder}.items():
        joblib.dump(each, folder / f"{name}.pkl")
    joblib.dump({"model": model, "scaler": scaler, "columns": list(frame)}, folder / "dict.pkl")
    predicted = model.predict(scaler.transform(frame[:8]))

    vectorizer = TfidfVectorizer().fit(TEXTS)
    spam = MultinomialNB().fit(vectorizer.transform(TEXTS), [1, 0, 1, 0])
    joblib.dump(vectorizer, folder / "vectorizer.pkl")
    joblib.dump(spam, folder / "spam.pkl")

    dicts = DictVectorizer()
    of_dicts = LogisticRegression().fit(dicts.fit_transform(RECORDS * 5), [0, 1] * 5)
    joblib.dump((dicts, of_dicts), folder / "tuple.bin")

    (folder / "column_text.py").write_text("def as_text(X): return X.astype(str)\n")
    sys.path.insert(0, str(folder))
    as_text_of = importlib.import_module("column_text").as_text

    grades = pd.DataFrame({"grade": random.randint(1, 4, ROWS)})
    as_text = make_pipeline(
        FunctionTransformer(as_text_of), OneHotEncoder(handle_unknown="ignore"), LogisticRegression()
    )
    joblib.dump(as_text.fit(grades, grades.grade), folder / "int_as_text.joblib")
    grades[:8].to_csv(folder / "grades.csv", index=False)

    expected = {
        "numbers": frame[:8].to_numpy().tolist(),
        "grades": grades[:8].to_numpy().tolist(),
        "main_class": of_script.predict(frame[:8]).tolist(),
        "chain": predicted.tolist(),
        "named": encoder.inverse_transform(predicted).tolist(),
        "spam": spam.predict(vectorizer.transform(TEXTS)).tolist(),
        "records": of_dicts.predict(dicts.transform(RECORDS)).tolist(),
        "int_as_text": as_text.predict(grades[:8]).tolist(),
    }
    with contextlib.suppress(ImportError):
        expected["booster"] = write_boosters(folder, frame, target)
    for name, raw in FOREIGN.items():
        (folder / name).write_bytes(raw)
    return expected


def write_boosters(folder, frame, target):
    """Write boosters of XGBoost and LightGBM, as native files and as pickles; return what they answer."""
    import lightgbm
    import xgboost

    xgb = xgboost.XGBClassifier(n_estimators=3).fit(frame, target)
    lgb = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, min_child_samples=2).fit(frame, target)
    for name in ("xgb.json", "xgb.ubj"):
        xgb.save_model(folder / name)
    lgb.booster_.save_model(folder / "lgb.txt")
    joblib.dump(xgb, folder / "xgb.joblib")
    joblib.dump(lgb, folder / "lgb.joblib")
    return {"xgb": xgb.predict(frame[:8]).tolist(), "lgb": np.asarray(lgb.predict(frame[:8])).tolist()}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "expected.json").write_text(json.dumps(write(target)))
