"""Fit a small classifier and save it: the file that `mutirao models add iris iris.joblib` takes."""

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

rows, labels = load_iris(return_X_y=True)
joblib.dump(LogisticRegression(max_iter=500).fit(rows, labels), "iris.joblib")
