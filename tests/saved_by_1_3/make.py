"""Write the files of this folder, with Python 3.11, scikit-learn 1.3.2 and numpy 1.26: python make.py

Classification trees stored counts until scikit-learn 1.4, fractions since. One file for each way to hold such a tree, two that
hold none, and answers.json, what each said then of the first row of each class.
"""

import json
import pathlib

import joblib
import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

HERE = pathlib.Path(__file__).parent
DATA, LABELS = load_iris(return_X_y=True)
TREE = DecisionTreeClassifier(max_depth=2, random_state=0)
SMALL = {"n_estimators": 2, "max_depth": 2, "random_state": 0}
REFUSED = {
    "tree": TREE,
    "forest": RandomForestClassifier(**SMALL),
    "extra_trees": ExtraTreesClassifier(**SMALL),
    "pipeline": make_pipeline(StandardScaler(), TREE),
    "search": GridSearchCV(TREE, {"max_depth": [2]}, cv=2),
    "calibrated": CalibratedClassifierCV(TREE, cv=2),
    "voting": VotingClassifier([("a", LogisticRegression(max_iter=500)), ("b", TREE)], voting="soft"),
    "stacking": StackingClassifier([("a", TREE)], cv=2),
    "bagging": BaggingClassifier(TREE, n_estimators=2, random_state=0),
    "boosting": AdaBoostClassifier(TREE, n_estimators=2, random_state=0),
    "one_vs_rest": OneVsRestClassifier(TREE),
}
SERVED = {
    "gradient_boosting": GradientBoostingClassifier(**SMALL),
    "regression_forest": RandomForestRegressor(**SMALL),
    "linear": LogisticRegression(max_iter=500),
}
TWO_TARGETS = MultiOutputClassifier(TREE)

if __name__ == "__main__":
    answers = {}
    for name, model in {**REFUSED, **SERVED}.items():
        joblib.dump(model.fit(DATA, LABELS), HERE / f"{name}.joblib", compress=9)
        answers[name] = model.predict(DATA[::50]).tolist()
    two = TWO_TARGETS.fit(DATA, np.c_[LABELS, LABELS > 0])
    joblib.dump(two, HERE / "two_targets.joblib", compress=9)
    answers["two_targets"] = two.predict(DATA[::50]).tolist()
    (HERE / "answers.json").write_text(json.dumps(answers) + "\n")
