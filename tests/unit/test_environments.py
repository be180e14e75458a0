"""The environment in which a model loads as it was saved, by what saved it."""

import pytest

from mutirao import errors
from mutirao_worker.models.environments import environment

ALL = ("3.11", "3.12", "3.13", "3.14")


@pytest.mark.parametrize(
    ("saved_with", "requirements", "pythons"),
    [
        (["scikit-learn 1.2.2"], "scikit-learn==1.2.2 numpy<2 pandas<3 scipy<1.12", ALL[:1]),
        (["scikit-learn 1.3.0"], "scikit-learn==1.3.0 numpy<2 pandas<3 scipy<1.12", ALL[:1]),
        (["scikit-learn 1.3.2"], "scikit-learn==1.3.2 numpy<2 pandas<3 scipy<1.12", ALL[:2]),
        (["scikit-learn 1.4.1.post1"], "scikit-learn==1.4.1.post1 numpy<2 pandas<3", ALL[:2]),
        (["scikit-learn 1.5.2", "scikit-learn 1.5.2"], "scikit-learn==1.5.2 pandas<3", ALL[:3]),
        (["scikit-learn 1.8.0", "xgboost 3.0.1"], "scikit-learn==1.8.0 xgboost==3.0.1", ALL),
        (["xgboost 2.1.4"], "xgboost==2.1.4", ALL),
        (["something else"], "", ALL),
    ],
)
def test_what_is_installed(saved_with, requirements, pythons):
    """The libraries that saved it, what else works with them, and the Pythons that have wheels of them."""
    assert environment(saved_with) == (tuple(requirements.split()), pythons)


@pytest.mark.parametrize(
    ("saved_with", "says"),
    [
        (["scikit-learn 1.1.3"], "a worker needs scikit-learn 1.2 or later"),
        (["scikit-learn 1.5.0", "scikit-learn 1.6.1"], "scikit-learn 1.5.0 and scikit-learn 1.6.1 saved its steps"),
    ],
)
def test_what_no_environment_has(saved_with, says):
    """The versions are named, with what to do."""
    with pytest.raises(errors.RepositoryError, match=says):
        environment(saved_with)
