"""Estimators as people build them: searches, stacks, pipelines, columns of a DataFrame, transformers of their own."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import Birch, KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    RandomTreesEmbedding,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer  # noqa: F401 - they enable
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.feature_selection import RFE, SelectFromModel, SelectKBest, SequentialFeatureSelector
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import IterativeImputer, KNNImputer, MissingIndicator, SimpleImputer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer, LocalOutlierFactor, NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVC, LinearSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier

from support import own_transformers
from support.estimator_zoo import AMOUNTS, CITIES, CLASSES, NUMBERS, RECORDS, ROWS, TEXTS, Entry

_random = np.random.default_rng(0)
HOUSES = pd.DataFrame(
    {
        "area": _random.uniform(40, 400, ROWS),
        "rooms": _random.integers(1, 8, ROWS),
        "city": pd.Series(_random.choice(CITIES, ROWS), dtype=object),
        "new": _random.integers(0, 2, ROWS).astype(bool),
    }
)
PRICES = HOUSES["area"] * 3 + HOUSES["rooms"] * 7
DEAR = np.where(PRICES.median() < PRICES, "sim", "não")
BINARY = (CLASSES == 0).astype(int)
SEVERAL = np.column_stack([BINARY, CLASSES > 1]).astype(int)
TWO_AMOUNTS = np.column_stack([AMOUNTS, AMOUNTS[::-1]])
SPAM = np.array([1, 0, 1, 0, 1, 0] * 10)
NOTES = pd.DataFrame({"note": pd.Series(TEXTS, dtype=object), "length": [float(len(each)) for each in TEXTS]})
HOLES = pd.DataFrame(NUMBERS, columns=["a", "b", "c", "d"]).mask(_random.random((ROWS, 4)) < 0.1)

Fit = Callable[[], tuple[Any, Any, Any]]
SHAPES: dict[str, Fit] = {}
_NEEDS_EXAMPLE: set[str] = set()


def shape(name: str, rows: Any, target: Any = None, *, example: bool = False) -> Callable[[Callable[[], Any]], None]:
    """Note how a shape is built, and what it is fitted on."""

    def note(build: Callable[[], Any]) -> None:
        assert name not in SHAPES, name
        SHAPES[name] = lambda: (build(), rows, target)
        if example:
            _NEEDS_EXAMPLE.add(name)

    return note


def fitted(name: str) -> Entry:
    """Fit a shape by its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator, rows, target = SHAPES[name]()
        estimator.fit(rows, target)
    return Entry(name, estimator, rows, name in _NEEDS_EXAMPLE)


def columns(*numbers: str, text: str = "city", **options: Any) -> ColumnTransformer:
    encoder = OneHotEncoder(handle_unknown="ignore")
    return ColumnTransformer([("number", StandardScaler(), list(numbers)), ("text", encoder, [text])], **options)


@functools.cache
def _cache() -> str:
    return tempfile.mkdtemp(prefix="mutirao-steps-")


def dense(X: Any) -> Any:  # noqa: N803 - scikit-learn's name
    return X.toarray() if hasattr(X, "toarray") else X


# Searches
shape("a grid search", NUMBERS, CLASSES)(lambda: GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2))
shape("a grid search of a pipeline on a DataFrame", HOUSES, DEAR)(
    lambda: GridSearchCV(
        make_pipeline(columns("area", "rooms"), LogisticRegression()), {"logisticregression__C": [0.1, 1]}, cv=2
    )
)
shape("a random search", NUMBERS, CLASSES)(
    lambda: RandomizedSearchCV(SVC(probability=False), {"C": [0.1, 1]}, n_iter=2, cv=2)
)
shape("a halving search", NUMBERS, CLASSES)(
    lambda: HalvingGridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [2, 3]}, cv=2, random_state=0)
)
shape("a search over the steps of a pipeline", NUMBERS, CLASSES)(
    lambda: GridSearchCV(
        Pipeline([("scale", StandardScaler()), ("model", GaussianNB())]),
        {"scale": [MinMaxScaler(), "passthrough"]},
        cv=2,
    )
)
shape("a search for a regressor with a text's vectorizer", TEXTS, AMOUNTS)(
    lambda: GridSearchCV(make_pipeline(TfidfVectorizer(), Ridge()), {"ridge__alpha": [1, 2]}, cv=2)
)
# Ensembles of others
shape("a stack", NUMBERS, CLASSES)(
    lambda: StackingClassifier([("tree", DecisionTreeClassifier(random_state=0)), ("bayes", GaussianNB())], cv=2)
)
shape("a stack that passes its features on, on a DataFrame", HOUSES[["area", "rooms"]], DEAR)(
    lambda: StackingClassifier(
        [("tree", DecisionTreeClassifier(random_state=0)), ("bayes", GaussianNB())], cv=2, passthrough=True
    )
)
shape("a stack of pipelines on a DataFrame", HOUSES, DEAR)(
    lambda: StackingClassifier(
        [
            ("a", make_pipeline(columns("area"), LogisticRegression())),
            ("b", make_pipeline(columns("rooms"), DecisionTreeClassifier(random_state=0))),
        ],
        cv=2,
    )
)
shape("a stack of regressors", NUMBERS, AMOUNTS)(
    lambda: StackingRegressor([("ridge", Ridge()), ("forest", RandomForestRegressor(5, random_state=0))], cv=2)
)
shape("a vote", NUMBERS, CLASSES)(
    lambda: VotingClassifier([("tree", DecisionTreeClassifier(random_state=0)), ("bayes", GaussianNB())])
)
shape("a soft vote with weights", NUMBERS, CLASSES)(
    lambda: VotingClassifier(
        [("tree", DecisionTreeClassifier(random_state=0)), ("bayes", GaussianNB())], voting="soft", weights=[1, 2]
    )
)
shape("a vote with one dropped", NUMBERS, CLASSES)(
    lambda: VotingClassifier([("tree", "drop"), ("bayes", GaussianNB())], voting="soft")
)
shape("a vote of regressors", NUMBERS, AMOUNTS)(
    lambda: VotingRegressor([("ridge", Ridge()), ("forest", RandomForestRegressor(5, random_state=0))])
)
shape("a bag of pipelines", NUMBERS, CLASSES)(
    lambda: BaggingClassifier(make_pipeline(StandardScaler(), LogisticRegression()), 3, random_state=0)
)
shape("a bag that takes some of the features", NUMBERS, AMOUNTS)(
    lambda: BaggingRegressor(Ridge(), 3, max_features=0.5, random_state=0)
)
shape("boosted stumps", NUMBERS, CLASSES)(lambda: AdaBoostClassifier(n_estimators=5, random_state=0))
shape("gradient boosting with a first estimator", NUMBERS, BINARY)(
    lambda: GradientBoostingClassifier(n_estimators=5, init=LogisticRegression(), random_state=0)
)
shape("histogram boosting with text categories", HOUSES.assign(city=HOUSES["city"].astype("category")), DEAR)(
    lambda: HistGradientBoostingClassifier(max_iter=5, categorical_features=["city"])
)
shape(
    "histogram boosting with categories from the dtype", HOUSES.assign(city=HOUSES["city"].astype("category")), PRICES
)(lambda: HistGradientBoostingRegressor(max_iter=5, categorical_features="from_dtype"))
shape("histogram boosting with holes", HOLES, AMOUNTS)(lambda: HistGradientBoostingRegressor(max_iter=5))
shape("extra trees of two outputs", NUMBERS, SEVERAL)(lambda: ExtraTreesClassifier(5, random_state=0))
shape("a forest that names its classes", NUMBERS, np.array(["a", "b", "c"], dtype=object)[CLASSES])(
    lambda: RandomForestClassifier(5, random_state=0)
)
# Calibration and thresholds
shape("a calibrated classifier", NUMBERS, CLASSES)(lambda: CalibratedClassifierCV(LinearSVC(), cv=2))
shape("a calibrated pipeline on a DataFrame, isotonic", HOUSES, DEAR)(
    lambda: CalibratedClassifierCV(
        make_pipeline(columns("area", "rooms"), FunctionTransformer(dense, accept_sparse=True), GaussianNB()),
        method="isotonic",
        cv=2,
    )
)
shape("a calibrated frozen classifier", NUMBERS, BINARY)(
    lambda: CalibratedClassifierCV(FrozenEstimator(LogisticRegression().fit(NUMBERS, BINARY)))
)
shape("a tuned threshold", NUMBERS, BINARY)(lambda: TunedThresholdClassifierCV(LogisticRegression(), cv=2))
# Several outputs, classes, labels
shape("a classifier for each output", NUMBERS, SEVERAL)(lambda: MultiOutputClassifier(LogisticRegression()))
shape("a regressor for each output of a pipeline", NUMBERS, TWO_AMOUNTS)(
    lambda: make_pipeline(StandardScaler(), MultiOutputRegressor(Ridge()))
)
shape("a chain of classifiers", NUMBERS, SEVERAL)(lambda: ClassifierChain(LogisticRegression(), random_state=0))
shape("a chain of regressors", NUMBERS, TWO_AMOUNTS)(lambda: RegressorChain(Ridge()))
shape("several labels of a row, one against the rest", NUMBERS, SEVERAL)(
    lambda: OneVsRestClassifier(LogisticRegression())
)
shape("several labels of a text", TEXTS, SEVERAL)(
    lambda: make_pipeline(TfidfVectorizer(), OneVsRestClassifier(LogisticRegression()))
)
shape("several labels by neighbours", NUMBERS, SEVERAL)(KNeighborsClassifier)
shape("several labels by a network", NUMBERS, SEVERAL)(lambda: MLPClassifier((4,), max_iter=30, random_state=0))
shape("one class against the rest", NUMBERS, CLASSES)(lambda: OneVsRestClassifier(SVC()))
shape("each pair of classes", NUMBERS, CLASSES)(lambda: OneVsOneClassifier(LinearSVC()))
shape("classes as codes", NUMBERS, CLASSES)(lambda: OutputCodeClassifier(LogisticRegression(), random_state=0))
# Text
shape("words and a classifier", TEXTS, SPAM)(
    lambda: make_pipeline(CountVectorizer(), TfidfTransformer(), MultinomialNB())
)
shape("a union of words and letters", TEXTS, SPAM)(
    lambda: make_pipeline(
        make_union(TfidfVectorizer(), CountVectorizer(analyzer="char", ngram_range=(1, 2))), LogisticRegression()
    )
)
shape("hashed words", TEXTS, SPAM)(
    lambda: make_pipeline(HashingVectorizer(n_features=64), SGDClassifier(random_state=0))
)
shape("words in fewer dimensions", TEXTS, SPAM)(
    lambda: make_pipeline(TfidfVectorizer(), TruncatedSVD(2, random_state=0), LogisticRegression())
)
shape("words next to numbers of a text of one's own", TEXTS, SPAM)(
    lambda: make_pipeline(
        FeatureUnion([("words", TfidfVectorizer()), ("lengths", own_transformers.Lengths())]), LogisticRegression()
    )
)
shape("a text's transformer of one's own first", TEXTS, SPAM, example=True)(
    lambda: make_pipeline(own_transformers.Lengths(), LogisticRegression())
)
shape("text cleaned by a function first", TEXTS, SPAM, example=True)(
    lambda: make_pipeline(FunctionTransformer(own_transformers.lower), TfidfVectorizer(), LogisticRegression())
)
shape("text and a number of a DataFrame", NOTES, SPAM)(
    lambda: make_pipeline(
        ColumnTransformer([("words", TfidfVectorizer(), "note"), ("number", StandardScaler(), ["length"])]),
        LogisticRegression(),
    )
)
shape("a DataFrame's column of text by a function", NOTES, SPAM, example=True)(
    lambda: make_pipeline(FunctionTransformer(own_transformers.first_column), CountVectorizer(), LogisticRegression())
)
shape("groups of texts", TEXTS)(lambda: make_pipeline(TfidfVectorizer(), KMeans(2, random_state=0)))
# Columns
shape("columns of numbers and text", HOUSES, DEAR)(
    lambda: make_pipeline(columns("area", "rooms", remainder="passthrough"), LogisticRegression())
)
shape("columns of which some are dropped", HOUSES, DEAR)(lambda: make_pipeline(columns("area"), LogisticRegression()))
shape("columns that are chosen by dtype", HOUSES, DEAR)(
    lambda: make_pipeline(
        ColumnTransformer(
            [
                ("text", OneHotEncoder(), make_column_selector(dtype_include=object)),
                ("number", RobustScaler(), make_column_selector(dtype_include=np.number)),
            ]
        ),
        LogisticRegression(),
    )
)
shape("columns that are chosen by a pattern, the rest scaled", HOUSES, DEAR)(
    lambda: make_pipeline(
        ColumnTransformer([("text", OneHotEncoder(), make_column_selector("^ci"))], remainder=StandardScaler()),
        LogisticRegression(),
    )
)
shape("columns by position of an array", NUMBERS, CLASSES)(
    lambda: make_pipeline(
        ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", "passthrough", slice(2, 3))]), LogisticRegression()
    )
)
shape("columns with drop and passthrough by name", HOUSES, DEAR)(
    lambda: make_pipeline(
        ColumnTransformer([("a", "passthrough", ["area"]), ("b", "drop", ["city"]), ("c", "passthrough", ["rooms"])]),
        LogisticRegression(),
    )
)
shape("columns within columns", HOUSES, DEAR)(
    lambda: make_pipeline(
        ColumnTransformer([("inner", make_pipeline(columns("area", "rooms"), PCA(2)), ["area", "rooms", "city"])]),
        LogisticRegression(),
    )
)
shape("columns that come out as a DataFrame", HOUSES, DEAR)(
    lambda: make_pipeline(
        ColumnTransformer([("number", StandardScaler(), ["area"]), ("text", OrdinalEncoder(), ["city"])]).set_output(
            transform="pandas"
        ),
        HistGradientBoostingClassifier(max_iter=5),
    )
)
shape("a pipeline whose steps all give DataFrames", HOUSES[["area", "rooms"]], DEAR)(
    lambda: make_pipeline(StandardScaler(), PolynomialFeatures(2), SelectKBest(k=3), LogisticRegression()).set_output(
        transform="pandas"
    )
)
shape("a transformer that gives DataFrames", HOUSES[["area", "rooms"]])(
    lambda: StandardScaler().set_output(transform="pandas")
)
shape("targets as a code", HOUSES, DEAR)(
    lambda: make_pipeline(
        ColumnTransformer(
            [("city", TargetEncoder(cv=2, random_state=0), ["city"]), ("number", StandardScaler(), ["area"])]
        ),
        LogisticRegression(),
    )
)
shape("categories of numbers and bools", HOUSES[["rooms", "new"]], DEAR)(
    lambda: make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
)
shape("infrequent categories", HOUSES[["city", "rooms"]], DEAR)(
    lambda: make_pipeline(OneHotEncoder(min_frequency=15), LogisticRegression())
)
# Holes
shape("imputed columns", HOLES, CLASSES)(lambda: make_pipeline(SimpleImputer(add_indicator=True), LogisticRegression()))
shape("columns imputed by neighbours", HOLES.to_numpy(), CLASSES)(
    lambda: make_pipeline(KNNImputer(n_neighbors=2), LogisticRegression())
)
shape("columns imputed by each other", HOLES, CLASSES)(
    lambda: make_pipeline(IterativeImputer(max_iter=2, random_state=0), LogisticRegression())
)
shape("holes as features", HOLES, CLASSES)(
    lambda: make_pipeline(
        FeatureUnion([("filled", SimpleImputer()), ("holes", MissingIndicator())]),
        DecisionTreeClassifier(random_state=0),
    )
)
# Functions and transformers of one's own
shape("a function first, on an array", NUMBERS, CLASSES)(
    lambda: make_pipeline(FunctionTransformer(np.abs), LogisticRegression())
)
shape("a function of one's own first, on an array", NUMBERS, CLASSES, example=True)(
    lambda: make_pipeline(FunctionTransformer(own_transformers.doubled), LogisticRegression())
)
shape("a function first, on a DataFrame", HOUSES[["area", "rooms"]], DEAR, example=True)(
    lambda: make_pipeline(FunctionTransformer(own_transformers.per_room), LogisticRegression())
)
shape("a transformer of one's own first, on a DataFrame", HOUSES[["area", "rooms"]], DEAR, example=True)(
    lambda: make_pipeline(own_transformers.Ratio(), LogisticRegression())
)
shape("a transformer of one's own that picks columns", HOUSES, DEAR, example=True)(
    lambda: make_pipeline(own_transformers.PickColumns(), LogisticRegression())
)
shape("whole numbers as text", HOUSES[["rooms"]], DEAR, example=True)(
    lambda: make_pipeline(
        FunctionTransformer(own_transformers.as_text), OneHotEncoder(handle_unknown="ignore"), LogisticRegression()
    )
)
shape("a classifier of one's own", NUMBERS, CLASSES, example=True)(own_transformers.Nearest)
shape("a regressor of one's own after a scaler", NUMBERS, AMOUNTS)(
    lambda: make_pipeline(StandardScaler(), own_transformers.Constant())
)
shape("a function that has an inverse, within columns", HOUSES[["area", "rooms"]], PRICES)(
    lambda: make_pipeline(
        ColumnTransformer([("log", FunctionTransformer(np.log1p, np.expm1), ["area"])], remainder="passthrough"),
        Ridge(),
    )
)
# Targets
shape("a target in logarithms", HOUSES[["area", "rooms"]], PRICES)(
    lambda: TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1)
)
shape("a scaled target of a pipeline", HOUSES, PRICES)(
    lambda: TransformedTargetRegressor(make_pipeline(columns("area", "rooms"), Ridge()), transformer=StandardScaler())
)
# Others
shape("a frozen pipeline", HOUSES, DEAR)(
    lambda: FrozenEstimator(make_pipeline(columns("area", "rooms"), LogisticRegression()).fit(HOUSES, DEAR))
)
shape("labels for a part of the rows", NUMBERS, np.where(np.arange(ROWS) % 3, CLASSES, -1))(
    lambda: SelfTrainingClassifier(LogisticRegression())
)
shape("a pipeline in a pipeline", NUMBERS, CLASSES)(
    lambda: make_pipeline(
        make_pipeline(StandardScaler(), PCA(3)), make_pipeline(PolynomialFeatures(2), LogisticRegression())
    )
)
shape("a pipeline with a cache", NUMBERS, CLASSES)(
    lambda: make_pipeline(StandardScaler(), PCA(2), LogisticRegression(), memory=_cache())
)
shape("a pipeline with a step passed by", NUMBERS, CLASSES)(
    lambda: Pipeline([("nothing", "passthrough"), ("scale", None), ("model", GaussianNB())])
)
shape("features selected by a model", NUMBERS, CLASSES)(
    lambda: make_pipeline(SelectFromModel(RandomForestClassifier(5, random_state=0)), GaussianNB())
)
shape("features eliminated one by one", HOUSES[["area", "rooms", "new"]], DEAR)(
    lambda: RFE(LogisticRegression(), n_features_to_select=2)
)
shape("features added one by one", NUMBERS, CLASSES)(
    lambda: make_pipeline(SequentialFeatureSelector(GaussianNB(), n_features_to_select=2, cv=2), GaussianNB())
)
shape("bins, splines and powers", HOUSES[["area", "rooms"]], PRICES)(
    lambda: make_pipeline(
        FeatureUnion(
            [
                ("bins", KBinsDiscretizer(3, encode="onehot", quantile_method="averaged_inverted_cdf")),
                ("splines", SplineTransformer()),
                ("powers", PowerTransformer()),
            ]
        ),
        Ridge(),
    )
)
shape("leaves of trees and a line", NUMBERS, CLASSES)(
    lambda: make_pipeline(RandomTreesEmbedding(5, random_state=0), LogisticRegression())
)
shape("a kernel by few rows", NUMBERS, CLASSES)(
    lambda: make_pipeline(Nystroem(n_components=5, random_state=0), LinearSVC())
)
shape("a graph of neighbours and a classifier", NUMBERS, CLASSES)(
    lambda: make_pipeline(KNeighborsTransformer(n_neighbors=7), KNeighborsClassifier(5, metric="precomputed"))
)
shape("a projection of classes", NUMBERS, CLASSES)(
    lambda: make_pipeline(StandardScaler(), LinearDiscriminantAnalysis())
)
shape("outliers by trees", HOUSES[["area", "rooms"]])(lambda: IsolationForest(n_estimators=5, random_state=0))
shape("outliers by neighbours", NUMBERS)(lambda: LocalOutlierFactor(novelty=True))
shape("outliers after a scaler", NUMBERS)(lambda: make_pipeline(StandardScaler(), OneClassSVM()))
shape("outliers by an ellipse", NUMBERS)(lambda: EllipticEnvelope(random_state=0))
shape("groups", HOUSES[["area", "rooms"]])(
    lambda: make_pipeline(StandardScaler(), MiniBatchKMeans(2, random_state=0, n_init=1))
)
shape("groups of groups", NUMBERS)(lambda: Birch(n_clusters=2))
shape("neighbours alone", NUMBERS)(lambda: NearestNeighbors(n_neighbors=3))
shape("neighbours of columns", HOUSES)(lambda: make_pipeline(columns("area", "rooms"), NearestNeighbors(n_neighbors=2)))
shape("a process that states its deviation", NUMBERS, AMOUNTS)(lambda: GaussianProcessRegressor(alpha=0.1))
shape("numbers of half the size", NUMBERS.astype(np.float32), CLASSES, example=True)(
    lambda: make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=30, random_state=0))
)
shape("whole numbers", np.arange(4 * ROWS).reshape(ROWS, 4) % 7, CLASSES)(
    lambda: make_pipeline(OneHotEncoder(), MultinomialNB())
)
shape("records", RECORDS, BINARY)(lambda: make_pipeline(DictVectorizer(), LogisticRegression()))
shape("records, sparse to dense and scaled", RECORDS, BINARY)(
    lambda: make_pipeline(DictVectorizer(sparse=False), StandardScaler(), GaussianNB())
)
shape("hashed records", RECORDS, BINARY)(lambda: make_pipeline(FeatureHasher(16), LogisticRegression()))
shape("a line through one feature", NUMBERS[:, :1], AMOUNTS)(LinearRegression)
