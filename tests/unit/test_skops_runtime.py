"""skops files: loaded without pickle, with no types but those that the operator trusts."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mutirao import errors
from mutirao_worker.models.repository import Repository

skops = pytest.importorskip("skops.io", exc_type=ImportError)

DATA = np.random.default_rng(0).random((50, 3))
LABELS = (DATA[:, 0] > DATA[:, 1]).astype(int)
TREE = "sklearn.tree._tree.Tree"


def add(tmp_path, model, **options):
    skops.dump(model.fit(DATA, LABELS), tmp_path / "m.skops")
    repository = Repository(tmp_path / "models")
    return repository, repository.add("m", tmp_path / "m.skops", **options)


def test_known_types_need_no_trust(tmp_path):
    """A pipeline of types that skops knows is served as the estimator itself."""
    model = make_pipeline(StandardScaler(), LogisticRegression())
    repository, info = add(tmp_path, model)
    assert (info.runtime, info.reason) == ("skops", "")
    found = repository.load("m").predict({"X": DATA}, info.signature.select_outputs(None))
    assert np.array_equal(found["predict_proba"], model.predict_proba(DATA))


def test_other_types_are_the_operators_to_trust(tmp_path):
    """A type that skops does not know is refused by its name, and served once it is trusted; the manifest keeps that."""
    forest = RandomForestClassifier(5, random_state=0)
    with pytest.raises(
        errors.RepositoryError, match=rf"types that skops does not trust by itself: {TREE}\. .* --trust {TREE}$"
    ):
        add(tmp_path, forest)
    repository, info = add(tmp_path, forest, trust=[TREE])
    assert repository.manifest("m").version.steps[0].trust == (TREE,)
    found = repository.load("m").predict({"X": DATA}, info.signature.select_outputs(None))
    assert np.array_equal(found["predict_proba"], forest.predict_proba(DATA))
