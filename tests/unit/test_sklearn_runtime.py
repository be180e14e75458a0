"""Estimators of scikit-learn as a worker serves them: their answers, their signature, what cannot be known, what is refused."""

import json
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import preprocessing
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import BayesianRidge, LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import CategoricalNB
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    StandardScaler,
)
from sklearn.svm import SVC

from mutirao import errors
from mutirao.wire import caller_data, signature, tensors
from mutirao.wire.signature import ParameterSpec
from mutirao_worker.inference import execution
from mutirao_worker.models.repository import Repository
from support import own_transformers, sample_models
from support.pool_requests import error_of, outputs_of, packed

IRIS = sample_models.get("iris")


LABELS = IRIS.expected()


HOUSES = sample_models.get("houses").data


DEAR = sample_models.get("houses").expected()


TEXTS = ["que bom", "que ruim", "muito bom", "muito ruim"] * 3


GOOD = np.array(["bom", "ruim", "bom", "ruim"] * 3)


def columns(number=("area", "rooms"), text=("city",)):
    return ColumnTransformer([("number", StandardScaler(), list(number)), ("text", OneHotEncoder(), list(text))])


def classifier():
    return make_pipeline(columns(), LogisticRegression())


FITTED = {
    "numbers": lambda: (LogisticRegression(max_iter=500).fit(IRIS.data, LABELS), IRIS.data),
    "text labels": lambda: (
        LogisticRegression(max_iter=500).fit(IRIS.data, np.array(["a", "bb", "ção"])[LABELS]),
        IRIS.data,
    ),
    "named numbers": lambda: (
        LinearRegression().fit(HOUSES[["area", "rooms"]], HOUSES["area"]),
        HOUSES[["area", "rooms"]],
    ),
    "text and numbers": lambda: (classifier().fit(HOUSES, DEAR), HOUSES),
    "imputed text": lambda: (
        make_pipeline(
            ColumnTransformer(
                [("text", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["city"])],
                remainder="passthrough",
            ),
            RandomForestClassifier(3),
        ).fit(HOUSES, DEAR),
        HOUSES,
    ),
    "selected columns": lambda: (
        make_pipeline(
            ColumnTransformer(
                [
                    ("text", OrdinalEncoder(), make_column_selector(dtype_exclude="number")),
                    ("number", "passthrough", make_column_selector(dtype_include="number")),
                ]
            ),
            LinearRegression(),
        ).fit(HOUSES, HOUSES["area"]),
        HOUSES,
    ),
    "grid search": lambda: (
        GridSearchCV(classifier(), {"logisticregression__C": [1, 2]}, cv=2).fit(HOUSES, DEAR),
        HOUSES,
    ),
    "calibrated": lambda: (CalibratedClassifierCV(classifier(), cv=2).fit(HOUSES, DEAR), HOUSES),
    "stacked": lambda: (StackingClassifier([("a", classifier())], cv=2).fit(HOUSES, DEAR), HOUSES),
    "voting": lambda: (VotingClassifier([("a", classifier())], voting="soft").fit(HOUSES, DEAR), HOUSES),
    "target": lambda: (
        TransformedTargetRegressor(make_pipeline(columns(), LinearRegression())).fit(HOUSES, HOUSES["area"]),
        HOUSES,
    ),
    "categories": lambda: (
        HistGradientBoostingClassifier(max_iter=3, categorical_features=["city"]).fit(
            HOUSES.astype({"city": "category"}), DEAR
        ),
        HOUSES.astype({"city": "category"}),
    ),
    "words": lambda: (make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, GOOD), TEXTS),
    "hashed words": lambda: (make_pipeline(HashingVectorizer(), LogisticRegression()).fit(TEXTS, GOOD), TEXTS),
    "united words": lambda: (
        make_pipeline(FeatureUnion([("a", TfidfVectorizer())]), LogisticRegression()).fit(TEXTS, GOOD),
        TEXTS,
    ),
    "words in a column": lambda: (
        make_pipeline(
            ColumnTransformer([("words", TfidfVectorizer(), "city")], remainder="passthrough"), LinearRegression()
        ).fit(HOUSES, HOUSES["area"]),
        HOUSES,
    ),
    "text matrix": lambda: (
        OneHotEncoder().fit(HOUSES[["city"]].to_numpy(dtype=object)),
        HOUSES[["city"]].to_numpy(dtype=object),
    ),
    "sparse": lambda: (OneHotEncoder().fit(HOUSES[["city"]]), HOUSES[["city"]]),
    "support vectors": lambda: (SVC().fit(IRIS.data, LABELS), IRIS.data),
    "clusters": lambda: (KMeans(3, n_init=1).fit(IRIS.data), IRIS.data),
    "components": lambda: (PCA(2).fit(IRIS.data), IRIS.data),
    "outliers": lambda: (IsolationForest(n_estimators=5).fit(IRIS.data), IRIS.data),
    "density": lambda: (KernelDensity().fit(IRIS.data), IRIS.data),
    "two targets": lambda: (RandomForestRegressor(3).fit(IRIS.data, IRIS.data[:, :2]), IRIS.data),
    "positive only": lambda: (
        make_pipeline(PowerTransformer("box-cox"), LinearRegression()).fit(IRIS.data, LABELS),
        IRIS.data,
    ),
    "small categories": lambda: (
        CategoricalNB(min_categories=9).fit(IRIS.data.astype(int), LABELS),
        IRIS.data.astype(int),
    ),
    "a function": lambda: (FunctionTransformer(np.log1p).fit(IRIS.data), IRIS.data),
}


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "models")


def add(repository, model, **given):
    path = repository.root.with_name("m.joblib")
    joblib.dump(model, path)
    return repository.add("m", path, **given)


@pytest.mark.filterwarnings("ignore:divide by zero encountered in log")  # predict_log_proba of a forest that is sure
@pytest.mark.parametrize("kind", FITTED)
def test_an_estimator_answers_as_it_does_itself(repository, kind):
    """Without an example, add knows what an estimator takes; each of its outputs equals the estimator's own, dtype and shape as declared."""
    model, data = FITTED[kind]()
    info = add(repository, model)
    assert repository.verify("m") == []
    bound = signature.validate("m", info.signature, caller_data.arrays(data, frame=info.signature.frame))
    outputs = repository.load("m").predict(bound, info.signature.outputs)
    assert list(outputs) == [spec.name for spec in info.signature.outputs]
    for spec in info.signature.outputs:
        own = getattr(model, spec.name)(data)
        own = own.toarray() if hasattr(own, "toarray") else np.asarray(own)
        assert np.array_equal(outputs[spec.name], own)
        assert tensors.datatype_of(outputs[spec.name]) == spec.datatype
        assert spec.shape == (-1, *own.shape[1:])


@pytest.mark.parametrize(
    ("kind", "inputs", "defaults"),
    [
        ("numbers", ["X FP64[-1, 4]"], ["predict INT64[-1]", "predict_proba FP64[-1, 3]"]),
        ("text labels", ["X FP64[-1, 4]"], ["predict BYTES[-1]", "predict_proba FP64[-1, 3]"]),
        (
            "text and numbers",
            ["area FP64[-1]", "city BYTES[-1]", "rooms FP64[-1]"],
            ["predict BYTES[-1]", "predict_proba FP64[-1, 2]"],
        ),
        ("words", ["X BYTES[-1]"], ["predict BYTES[-1]", "predict_proba FP64[-1, 2]"]),
        ("text matrix", ["X BYTES[-1, 1]"], ["transform FP64[-1, 4]"]),
        ("support vectors", ["X FP64[-1, 4]"], ["predict INT64[-1]"]),
        ("clusters", ["X FP64[-1, 4]"], ["predict INT32[-1]"]),
        ("components", ["X FP64[-1, 4]"], ["transform FP64[-1, 2]"]),
        ("density", ["X FP64[-1, 4]"], ["score_samples FP64[-1]"]),
        ("two targets", ["X FP64[-1, 4]"], ["predict FP64[-1, 2]"]),
    ],
)
def test_the_signature_is_read_from_the_estimator(repository, kind, inputs, defaults):
    """Names, datatypes and shapes come from the estimator; predict and predict_proba are the defaults, else transform, else what there is."""
    info = add(repository, FITTED[kind]()[0])
    assert [str(spec) for spec in info.signature.inputs] == inputs
    assert [str(spec) for spec in info.signature.outputs if spec.default] == defaults


def test_a_probability_for_each_target_is_an_output_of_its_own(repository):
    """A classifier of several targets gives predict_proba.0, predict_proba.1, ..., by one call of the method."""
    model = RandomForestClassifier(3, random_state=0).fit(IRIS.data, np.c_[LABELS, LABELS > 0])
    info = add(repository, model)
    defaults = ["predict", "predict_proba.0", "predict_proba.1"]
    assert [spec.name for spec in info.signature.outputs if spec.default] == defaults
    outputs = repository.load("m").predict({"X": IRIS.data}, info.signature.select_outputs(["predict_proba.1"]))
    assert np.array_equal(outputs["predict_proba.1"], model.predict_proba(IRIS.data)[1])


def test_a_plain_pickle_is_loaded_too(repository, tmp_path):
    """A file made by pickle.dump, or compressed by joblib, works as one by joblib.dump."""
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(IRIS.model))
    joblib.dump(IRIS.model, tmp_path / "m.joblib.gz")
    for name in ("m.pkl", "m.joblib.gz"):
        repository.add("m", tmp_path / name)
        assert repository.verify("m") == []


class Opaque(BaseEstimator):  # type: ignore[misc]
    """Tells nothing of what it was fitted on, and predicts text only."""

    def fit(self, X, y=None):  # noqa: N803, ARG002
        self.fitted_ = True
        return self

    def predict(self, X):  # noqa: N803
        return np.array([len(text) for text in X])


class Picky(BaseEstimator):  # type: ignore[misc]
    """Takes only rows like those that it was fitted on."""

    def fit(self, X, y=None):  # noqa: N803, ARG002
        self.n_features_in_, self.low_ = X.shape[1], X.min()
        return self

    def predict(self, X):  # noqa: N803
        if X.min() < self.low_:
            raise ValueError("out of range")
        return X.sum(axis=1)


def test_what_cannot_be_known_is_asked_for(repository, tmp_path, monkeypatch):
    """Where the estimator does not tell, or fails on rows made up for it, add asks for an example, and works with one."""
    monkeypatch.setitem(__import__("sys").modules, "test_sklearn_runtime", __import__("sys").modules[__name__])
    with pytest.raises(
        errors.RepositoryError,
        match=r"what the Opaque was fitted on cannot be known: give it some rows with --example rows\.csv",
    ):
        add(repository, Opaque().fit(TEXTS))
    with pytest.raises(
        errors.RepositoryError,
        match=r"the Picky does not predict the rows made up for it; .*--example rows\.csv: ValueError: out of range",
    ):
        add(repository, Picky().fit(np.full((2, 3), 100.0)))
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "texts.csv", index=False)
    assert [
        str(spec) for spec in add(repository, Opaque().fit(TEXTS), example=tmp_path / "texts.csv").signature.inputs
    ] == ["X BYTES[-1]"]
    np.save(tmp_path / "rows.npy", np.full((2, 3), 100.0))
    assert add(repository, Picky().fit(np.full((2, 3), 100.0)), example=tmp_path / "rows.npy").version == "2"
    assert repository.verify("m") == []


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            lambda: {"a": 1},
            "the file holds a dict of 'a' (int), not a scikit-learn estimator: save the fitted estimator",
        ),
        (LogisticRegression, "the LogisticRegression is not fitted: call fit before you save it"),
        (BaseEstimator, "the BaseEstimator has no method fit, so it is no scikit-learn estimator"),
        (lambda: LogisticRegression, "not a scikit-learn estimator"),
        (lambda: make_pipeline(StandardScaler(), LogisticRegression()), "the Pipeline is not fitted"),
        (
            lambda: make_pipeline(
                ColumnTransformer([("c", OneHotEncoder(), [1])], remainder="passthrough"), LinearRegression()
            ).fit(HOUSES.to_numpy(dtype=object), HOUSES["area"]),
            "fitted on an array that mixes text and numbers, which no tensor can hold: fit it on a DataFrame",
        ),
        (lambda: StandardScaler().fit(IRIS.data).set_output(transform="polars"), "does not predict"),
    ],
    ids=["dict", "unfitted", "without fit", "class", "unfitted pipeline", "mixed array", "needs what is not there"],
)
def test_what_is_no_model_is_refused(repository, model, says):
    """What cannot be served is refused by add, with the reason and the remedy."""
    with pytest.raises(errors.RepositoryError) as caught:
        add(repository, model())
    assert says in str(caught.value)
    assert repository.names() == ()


# Since scikit-learn 1.3.
TARGET_ENCODERS = [preprocessing.TargetEncoder(cv=2)] if hasattr(preprocessing, "TargetEncoder") else []


@pytest.mark.parametrize("second", [OneHotEncoder(handle_unknown="ignore"), *TARGET_ENCODERS])
def test_text_made_of_whole_numbers_is_not_guessed(repository, tmp_path, second):
    """A step that makes text of numbers makes "1" of 1 and "1.0" of 1.0: without an example neither is guessed."""
    data = pd.DataFrame({"grade": [1, 2, 3] * 4})
    model = make_pipeline(FunctionTransformer(own_transformers.as_text), second, LinearRegression()).fit(
        data, data.grade
    )
    file = tmp_path / "m.joblib"
    joblib.dump(model, file)
    with pytest.raises(
        errors.RepositoryError, match=r"cannot be known: its first step \(FunctionTransformer\) .* --example"
    ):
        repository.add("m", file)
    data.to_csv(tmp_path / "rows.csv", index=False)
    for example in (data, tmp_path / "rows.csv"):
        takes = repository.add("m", file, example=example).signature
        inputs = signature.validate("m", takes, caller_data.arrays(data, frame=True))
        answers = repository.load("m").predict(inputs, takes.select_outputs(None))
        assert np.array_equal(answers["predict"], model.predict(data))


def test_an_estimator_without_answers_for_new_rows_says_so(repository):
    """Clusters of the rows of fit are no model; no example would help."""
    with pytest.raises(errors.RepositoryError, match=r"the DBSCAN has no method that answers for new rows \(predict, "):
        add(repository, DBSCAN().fit(IRIS.data))


def test_neighbours_are_as_many_as_a_request_asks_for(repository):
    """Each request of a batch gets its own number of neighbours; a parameter that the manifest does not list changes nothing."""
    model = NearestNeighbors(n_neighbors=3).fit(IRIS.data)
    assert add(repository, model).signature.parameters == (ParameterSpec("n_neighbors", "INT64", 3),)
    loaded = repository.load("m")
    rows = IRIS.data[:2]
    asked = [packed("m", rows, parameters={"n_neighbors": count} if count else {}) for count in (2, 0, 5, 2)]
    answers = execution.run(lambda _: loaded, asked, execution.ResultLimits(65536)).results
    for answer, count in zip(map(outputs_of, answers), (2, 3, 5, 2), strict=True):
        distances, indices = model.kneighbors(rows, count)
        assert np.array_equal(answer["kneighbors.distances"], distances)
        assert np.array_equal(answer["kneighbors.indices"], indices)


def test_the_deviation_of_a_prediction_is_an_output(repository):
    """predict.std is what predict(return_std=True) gives, also of a pipeline; it is computed where it is asked for, in one call."""
    model = make_pipeline(StandardScaler(), BayesianRidge()).fit(IRIS.data, IRIS.data[:, 0])
    takes = add(repository, model).signature
    assert [(output.name, output.default) for output in takes.outputs] == [("predict", True), ("predict.std", False)]
    loaded = repository.load("m")
    answers = loaded.predict({"X": IRIS.data}, takes.select_outputs(["predict.std", "predict"]))
    mean, deviation = model.predict(IRIS.data, return_std=True)
    assert np.array_equal(answers["predict"], mean)
    assert np.array_equal(answers["predict.std"], deviation)


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize(
    "wrap", [lambda model: model, lambda model: GridSearchCV(model, {"logisticregression__C": [1.0]}, cv=2)]
)
def test_columns_that_are_dropped_are_not_asked_for(repository, wrap, with_example):
    """A request may leave them out, or send anything for them; the answer is the same, and the others are asked for as ever."""
    keeps = ColumnTransformer([("area", StandardScaler(), ["area"]), ("city", "drop", ["city"])])
    model = wrap(make_pipeline(keeps, LogisticRegression())).fit(HOUSES, DEAR)
    takes = add(repository, model, example=HOUSES if with_example else None).signature
    assert {spec.name: spec.optional for spec in takes.inputs} == {"area": False, "city": True, "rooms": True}
    loaded = repository.load("m")
    for data in (HOUSES, HOUSES[["area"]], HOUSES.assign(city=1, rooms="x"), HOUSES[["rooms", "area"]]):
        inputs = signature.validate("m", takes, caller_data.arrays(data, frame=True))
        answers = loaded.predict(inputs, takes.select_outputs(None))
        assert np.array_equal(answers["predict_proba"], model.predict_proba(HOUSES))
    with pytest.raises(errors.SignatureMismatch, match="got inputs without 'area'"):
        signature.validate("m", takes, caller_data.arrays(HOUSES[["rooms"]], frame=True))


@pytest.mark.parametrize("example", [None, "rows.json", "rows.csv", "frame"])
def test_records_are_rows(repository, tmp_path, example):
    """A DictVectorizer takes a JSON object for each row, from a client, and as an example; what is no object fails alone."""
    records = [{"city": "recife", "km": 3.0}, {"city": "natal", "km": 9.0}] * 3
    model = make_pipeline(DictVectorizer(), LogisticRegression()).fit(records, [0, 1] * 3)
    (tmp_path / "rows.json").write_text(json.dumps(records))
    pd.DataFrame(records).to_csv(tmp_path / "rows.csv", index=False)
    given = pd.DataFrame(records) if example == "frame" else tmp_path / example if example else None
    takes = add(repository, model, example=given).signature
    assert [(spec.datatype, spec.format) for spec in takes.inputs] == [("BYTES", "json")]
    loaded = repository.load("m")
    rows = [[{"city": "natal"}], [3], [{"km": 4}]]
    asked = [packed("m", signature.validate("m", takes, signature.read(each, takes))) for each in rows]
    natal, wrong, near = execution.run(lambda _: loaded, asked, execution.ResultLimits(65536)).results
    for answer, record in ((natal, {"city": "natal"}), (near, {"km": 4})):
        assert np.array_equal(outputs_of(answer)["predict_proba"], model.predict_proba([record]))
    assert "row 0 is int 3, and the model takes a record for each row" in str(error_of(wrong))


@pytest.mark.parametrize("kind", ["frame", "csv"])
def test_dates_are_text_on_the_wire(repository, tmp_path, kind):
    """A column of times travels as ISO 8601 and reaches the model as datetime64; a time zone, and what is no time, are refused."""
    data = pd.DataFrame(
        {"when": pd.to_datetime(["2026-11-29T08:30:00", "2026-01-03T00:00:00", "2026-05-01T23:59:59"] * 4)}
    )
    model = make_pipeline(FunctionTransformer(own_transformers.weekday_and_hour), LinearRegression()).fit(
        data, range(12)
    )
    data.to_csv(tmp_path / "rows.csv", index=False, date_format="%Y-%m-%dT%H:%M:%S")
    takes = add(repository, model, example=data if kind == "frame" else tmp_path / "rows.csv").signature
    assert [(spec.datatype, spec.format) for spec in takes.inputs] == [("BYTES", "date-time")]
    loaded = repository.load("m")
    times = list(data["when"])
    for given in (
        data,
        {"when": times},
        {"when": [each.isoformat() for each in times]},
        {"when": data["when"].to_numpy()},
    ):
        asked = packed("m", signature.validate("m", takes, signature.read(given, takes)))
        (answer,) = execution.run(lambda _: loaded, [asked], execution.ResultLimits(65536)).results
        assert np.array_equal(outputs_of(answer)["predict"], model.predict(data))
    for wrong, says in (
        ("2026-11-29T08:30Z", "without a time zone"),
        ("soon", "which is no date or time"),
        (3.5, "BYTES"),
    ):
        with pytest.raises(errors.InvalidRequest, match=says):
            signature.validate("m", takes, signature.read({"when": [wrong]}, takes))


def test_threads_are_capped_in_every_part(repository):
    """n_jobs is capped in the estimator and in its fitted parts; None, 1 and what is below the cap stay."""
    inner = make_pipeline(columns(), RandomForestClassifier(3, n_jobs=-1))
    model = StackingClassifier(
        [("a", inner), ("b", make_pipeline(columns(), RandomForestClassifier(3, n_jobs=1)))], cv=2, n_jobs=None
    )
    add(repository, model.fit(HOUSES, DEAR))
    loaded = repository.load("m")
    loaded.set_threads(2)
    fitted = loaded._loaded.estimator
    forests = [each.named_steps["randomforestclassifier"] for each in fitted.estimators_]
    assert [forest.n_jobs for forest in forests] == [2, 1]
    assert (fitted.n_jobs, fitted.estimators[0][1].named_steps["randomforestclassifier"].n_jobs) == (None, 2)
    loaded.warm_up()


def test_a_warm_up_runs_the_example_through_the_default_outputs(tmp_path):
    """Warming up predicts the stored rows; what the model raises comes out."""
    repository = sample_models.repository(tmp_path / "models", "raises")
    loaded = repository.load("raises")
    loaded.warm_up()
    loaded._example = loaded._example.replace(b"1.0", b"-1.0")
    with pytest.raises(ValueError, match="the sky is falling"):
        loaded.warm_up()


def test_a_warning_of_another_version_becomes_the_version_that_saved_it(repository, tmp_path):
    """A file saved with another scikit-learn is added with a note of that version, and without a warning."""
    import sklearn

    raw = pickle.dumps(IRIS.model, protocol=0)
    assert sklearn.__version__.encode() in raw
    (tmp_path / "old.pkl").write_bytes(raw.replace(sklearn.__version__.encode(), b"1.0.2"))
    info = repository.add("m", tmp_path / "old.pkl")
    assert repository.manifest("m").version.saved_with == "scikit-learn 1.0.2"
    assert (
        info.reason
        == repository.load("m").info.reason
        == f"saved with scikit-learn 1.0.2, loaded with scikit-learn {sklearn.__version__}"
    )


def test_an_encoder_tells_its_categories(repository):
    """Whole numbers and bools that an encoder has seen are taken as such without an example; the rest is a guess that says so."""
    frame = pd.DataFrame({"n": [1, 2, 3] * 4, "b": [True, False] * 6, "f": [0.5, 1.5, 2.5] * 4})
    encode = ColumnTransformer([("seen", OneHotEncoder(), ["n", "b"])], remainder="passthrough")
    info = add(repository, make_pipeline(encode, LinearRegression()).fit(frame, frame["f"]))
    assert [(str(spec), spec.guessed) for spec in info.signature.inputs] == [
        ("n INT64[-1]", False),
        ("b BOOL[-1]", False),
        ("f FP64[-1]", True),
    ]


def test_what_may_be_missing_is_tried(repository):
    """nullable is what the model itself takes, column by column; a matrix may lack a value where any column may."""
    frame = HOUSES.assign(age=1.0)
    encode = ColumnTransformer(
        [("words", TfidfVectorizer(), "city"), ("age", SimpleImputer(), ["age"])], remainder="passthrough"
    )
    info = add(repository, make_pipeline(encode, LinearRegression()).fit(frame, frame["area"]))
    assert {spec.name: spec.nullable for spec in info.signature.inputs} == {
        "area": False,
        "city": False,
        "rooms": False,
        "age": True,
    }
    for model, nullable in (
        (IRIS.model, False),
        (RandomForestClassifier(3).fit(IRIS.data, LABELS), True),
        (
            make_pipeline(
                ColumnTransformer([("some", SimpleImputer(), [2])], remainder="passthrough"), LinearRegression()
            ).fit(IRIS.data, LABELS),
            True,
        ),
    ):
        assert add(repository, model).signature.inputs[0].nullable is nullable
