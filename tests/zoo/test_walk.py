"""All estimators of scikit-learn, and shapes that people build of them: each is served and answers as in process, or says why not."""

import sys
import tempfile
from pathlib import Path

import pytest
import sklearn

from mutirao_worker.models import trial_process
from support import estimator_shapes, estimator_walk, estimator_zoo
from support.estimator_walk import EQUAL, OTHER, OTHERWISE

PAGE = Path(__file__).parents[2] / "docs" / "estimators.md"


@pytest.fixture(scope="module")
def walks():
    return walk_all()


@pytest.mark.zoo
@pytest.mark.timeout(600)
def test_every_output_is_the_estimators_own(walks):
    """The bits of a batch are those of the estimator, and a request's differ from its answer alone by rounding at most."""
    for each in [each for of_kind in walks.values() for each in of_kind if each.name not in OTHERWISE]:
        assert set(each.together.values()) <= {EQUAL}, each.name
        assert OTHER not in each.alone.values(), each.name


@pytest.mark.zoo
@pytest.mark.timeout(600)
def test_the_page_tells_what_is_served(walks):
    """docs/estimators.md is what the walk finds; `PYTHONPATH=tests python tests/zoo/test_walk.py` writes it again."""
    if f"scikit-learn {sklearn.__version__}:" not in PAGE.read_text():
        pytest.skip(f"the page was made with another scikit-learn than {sklearn.__version__}")
    assert PAGE.read_text() == estimator_walk.page(walks)


def walk_all():
    def walk(entry):
        with tempfile.TemporaryDirectory(prefix="mutirao-walk-") as folder:
            return estimator_walk.walk(entry, Path(folder))

    return {
        "All estimators of scikit-learn": [walk(estimator_zoo.fitted(name)) for name in estimator_zoo.all_names()],
        "Shapes that are built of them": [walk(estimator_shapes.fitted(name)) for name in estimator_shapes.SHAPES],
    }


if __name__ == "__main__":
    trial_process.run = trial_process.run_here
    sys.exit(PAGE.write_text(estimator_walk.page(walk_all())) == 0)
