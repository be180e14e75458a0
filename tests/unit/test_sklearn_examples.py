"""Examples that come with a scikit-learn model: what each form of them says of the model's inputs, and which are refused."""

import json

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from mutirao import errors
from mutirao.wire import caller_data, signature
from mutirao_worker.models.repository import Repository
from support import sample_models

IRIS = sample_models.get("iris")


HOUSES = sample_models.get("houses").data


DEAR = sample_models.get("houses").expected()


def columns(number=("area", "rooms"), text=("city",)):
    return ColumnTransformer([("number", StandardScaler(), list(number)), ("text", OneHotEncoder(), list(text))])


def classifier():
    return make_pipeline(columns(), LogisticRegression())


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "models")


def add(repository, model, **given):
    path = repository.root.with_name("m.joblib")
    joblib.dump(model, path)
    return repository.add("m", path, **given)


EXAMPLES = {
    "csv": lambda path: HOUSES.assign(label=DEAR).to_csv(path, index=False),
    "records.json": lambda path: HOUSES.to_json(path, orient="records"),
    "columns.json": lambda path: path.write_text(json.dumps(HOUSES.to_dict("list"))),
    "request.json": lambda path: path.write_text(
        json.dumps(
            {
                "inputs": [
                    {"name": "area", "datatype": "FP64", "shape": [1], "data": [50]},
                    {"name": "city", "datatype": "BYTES", "shape": [1], "data": ["Mariana"]},
                    {"name": "rooms", "datatype": "FP64", "shape": [1], "data": [2]},
                ]
            }
        )
    ),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_example_file_gives_the_columns(repository, tmp_path, kind):
    """CSV, records, columns and a V2 request are the same example; a column of whole numbers is one of integers, and where only the file says so it was guessed; the label is left out."""
    EXAMPLES[kind](tmp_path / f"e.{kind}")
    info = add(repository, classifier().fit(HOUSES, DEAR), example=tmp_path / f"e.{kind}")
    rooms = "rooms FP64[-1]" if kind == "request.json" else "rooms INT64[-1]"
    assert [str(spec) for spec in info.signature.inputs] == ["area FP64[-1]", "city BYTES[-1]", rooms]
    assert [spec.guessed for spec in info.signature.inputs] == [False, False, kind != "request.json"]
    assert repository.verify("m") == []


@pytest.mark.parametrize(
    ("suffix", "text"),
    [("csv", "5.1,3.5,1.4,0.2\n4.9,3.0,1.4,0.2\n"), ("csv", "a,b,c,d\n5,3,1,0\n"), ("json", "[[5, 3, 1, 0]]")],
)
def test_an_example_of_a_matrix_needs_no_names(repository, tmp_path, suffix, text):
    """A CSV without a header, one with any header, and JSON rows are examples of a matrix of numbers."""
    (tmp_path / f"e.{suffix}").write_text(text)
    info = add(repository, IRIS.model, example=tmp_path / f"e.{suffix}")
    assert [str(spec) for spec in info.signature.inputs] == ["X FP64[-1, 4]"]


def test_an_example_in_memory_keeps_its_dtypes(repository):
    """A DataFrame's own dtypes are deliberate: integers and bools stay, float32 stays, rows with a missing value are left out."""
    frame = pd.DataFrame({"n": [1, 2, 3], "b": [True, False, True], "f": np.array([1, np.nan, 3], dtype=np.float32)})
    info = add(repository, LinearRegression().fit(frame.fillna(0), [1, 2, 3]), example=frame)
    assert [str(spec) for spec in info.signature.inputs] == ["n INT64[-1]", "b BOOL[-1]", "f FP32[-1]"]
    kept = json.loads((repository.root / "m" / "1" / "example.json").read_text())
    assert [tensor["data"] for tensor in kept["inputs"]] == [[1, 3], [True, True], [1.0, 3.0]]


@pytest.mark.parametrize(
    ("example", "says"),
    [
        (
            HOUSES[["area", "city"]],
            "the example lacks the column 'rooms' that the model was fitted on; it has 'area', 'city'",
        ),
        (
            HOUSES.to_numpy(),
            "the example lacks the column 'area' that the model was fitted on; it has an unnamed matrix",
        ),
        (HOUSES.assign(rooms=np.nan), "has no row without a missing value"),
        (HOUSES.iloc[:0], "has no row without a missing value"),
        (HOUSES.assign(area=pd.Timestamp("2020-01-01", tz="UTC")), "column 'area' holds datetime64"),
        (
            HOUSES.assign(city="Paris"),
            "the Pipeline does not predict the example: ValueError: Found unknown categories",
        ),
        ("nothing.csv", "the example nothing.csv cannot be read"),
        ("rows.xlsx", "it must be a .csv, .json or .npy file"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(repository, tmp_path, monkeypatch, example, says):
    """An example that is not what the model takes is refused with what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.RepositoryError) as caught:
        add(repository, classifier().fit(HOUSES, DEAR), example=example)
    assert says in str(caught.value)


def as_text(X):  # noqa: N803
    """A step that turns numbers into text: 1 is not 1.0 to it."""
    return pd.DataFrame(X).astype(str)


def _as_text_model(data):
    steps = (FunctionTransformer(as_text), OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    return make_pipeline(*steps).fit(data, np.ravel(data)[: len(data)])


GRADES = pd.DataFrame({"grade": [1, 2, 3] * 6})


@pytest.mark.parametrize("kind", ["csv", "json", "frame", "array", "matrix"])
def test_whole_numbers_stay_whole(repository, tmp_path, monkeypatch, kind):
    """A model that turns whole numbers into text sees 1 and not 1.0, wherever its example comes from; 37.0 is whole."""
    monkeypatch.setitem(__import__("sys").modules, "test_sklearn_examples", __import__("sys").modules[__name__])
    matrix = kind in {"array", "matrix"}
    data = GRADES.to_numpy() if matrix else GRADES
    GRADES.to_csv(tmp_path / "e.csv", index=False)
    GRADES.to_json(tmp_path / "e.json", orient="records")
    example = {"csv": tmp_path / "e.csv", "json": tmp_path / "e.json", "matrix": tmp_path / "e.csv"}.get(kind, data)
    model = _as_text_model(data)
    info = add(repository, model, example=example)
    assert [(spec.datatype, spec.guessed) for spec in info.signature.inputs] == [
        ("INT64", kind in {"csv", "json", "matrix"})
    ]
    for given in (data, [[1.0], [2], [3.0]]):
        bound = signature.validate("m", info.signature, caller_data.arrays(given, frame=info.signature.frame))
        answer = repository.load("m").predict(bound, info.signature.select_outputs(None))["predict"]
        assert answer.tolist() == ([1, 2, 3] if given is not data else model.predict(data).tolist())


def test_a_guess_is_named_where_it_refuses(repository, tmp_path):
    """37.5 for an input that was guessed from a CSV names the command that corrects it."""
    HOUSES.to_csv(tmp_path / "e.csv", index=False)
    info = add(repository, classifier().fit(HOUSES, DEAR), example=tmp_path / "e.csv")
    row = {"area": [50.5], "city": ["Mariana"], "rooms": [2.5]}
    command = "mutirao models set m inputs.rooms.datatype=FP64"
    with pytest.raises(
        errors.SignatureMismatch,
        match=rf"it must be INT64, got 2\.5 in row 0.*guessed.*run {command}, and restart the workers",
    ):
        signature.validate("m", info.signature, caller_data.arrays(row, frame=True))
    repository.change("m", {"inputs.rooms.datatype": "FP64"})
    takes = repository.info("m").signature
    assert signature.validate("m", takes, caller_data.arrays(row, frame=True))["rooms"].tolist() == [2.5]


def test_the_names_of_a_matrix_are_kept(repository, tmp_path):
    """What an example calls the columns of a matrix is kept: a CSV goes by it."""
    pd.DataFrame(IRIS.data[:3], columns=list("abcd")).to_csv(tmp_path / "e.csv", index=False)
    info = add(repository, IRIS.model, example=tmp_path / "e.csv")
    assert info.signature.inputs[0].columns == ("a", "b", "c", "d")
