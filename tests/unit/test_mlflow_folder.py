"""Folders as MLflow 3.17 saved them: served without MLflow, with the names and types of their signature; and what cannot be."""

import shutil
from pathlib import Path

import pytest

from mutirao import errors
from mutirao_worker.models.repository import Repository

SAVED = Path(__file__).parents[1] / "saved_by_mlflow"


@pytest.fixture
def folder(tmp_path):
    """A folder that may be changed."""
    return Path(shutil.copytree(SAVED / "houses", tmp_path / "saved"))


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "models")


def test_a_pipeline_is_served_by_its_signature(repository):
    """Names, types and rows come from MLmodel and the input example: nothing is guessed, and the pipeline answers."""
    info = repository.add("houses", SAVED / "houses")
    assert [(spec.name, spec.datatype, spec.guessed) for spec in info.signature.inputs] == [
        ("age", "FP64", False), ("city", "BYTES", False), ("rooms", "INT64", False),
    ]  # fmt: skip
    assert sorted(repository.manifest("houses").version.files) == ["example.json", "model.pkl", "requirements.txt"]
    loaded = repository.load("houses")
    loaded.warm_up()
    assert loaded.info.example == {"age": [20.0], "city": ["a"], "rooms": [1]}


def test_without_an_example_rows_are_made_up_by_the_signature(repository, folder):
    """A folder that was saved without an input example is tried on rows of the types that its signature names."""
    (folder / "input_example.json").unlink()
    inputs = repository.add("houses", folder).signature.inputs
    assert [spec.datatype for spec in inputs] == ["FP64", "BYTES", "INT64"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("pickled_model: model.pkl", "pickled_model: ../../etc/passwd", "leads out of the folder"),
        (
            "pickled_model: model.pkl",
            "pickled_model: other.pkl",
            "saved/other.pkl cannot be read: there is no such file",
        ),
        ("pickled_model: model.pkl", "pickled: model.pkl", "the flavour sklearn has no pickled_model"),
        ("flavors:", "flavours:", "names no flavour"),
        ("flavors:", "flavors: [", "is not YAML"),
        ("flavors:", "made: 2026-99-99\nflavors:", "is not YAML"),
        ("inputs: '[{", "inputs: '[[{", "its signature and input example do not fit together"),
        ("artifact_path: input_example.json", "artifact_path: ../../x.json", "leads out of the folder"),
    ],
)
def test_an_mlmodel_that_cannot_be_is_refused(repository, folder, old, new, says):
    """An MLmodel that was damaged, or leads out of its folder, is refused with the file and the key; nothing is added."""
    path = folder / "MLmodel"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(errors.RepositoryError) as caught:
        repository.add("houses", folder)
    assert says in str(caught.value)
    assert repository.names() == ()


def test_a_registry_needs_mlflow(repository):
    """A URL of MLflow's registry is refused with what to install, where MLflow is not."""
    with pytest.raises(
        errors.RepositoryError, match="which is not installed here: pip install mlflow, or download the folder"
    ):
        repository.add("houses", "models:/houses@champion")


def test_a_booster_is_served_from_its_own_file(repository):
    """XGBoost's flavour is its native file: labels and probabilities, as the estimator that was saved gives them."""
    info = repository.add("m", SAVED / "xgb")
    assert (info.runtime, info.signature.inputs[0].shape) == ("xgboost", (-1, 3))
    assert {"predict", "predict_proba"} <= {output.name for output in info.signature.outputs}
    repository.load("m").warm_up()


def test_what_only_mlflow_can_run_needs_it(repository, folder):
    """A model of own code is refused with the library that it needs, where MLflow is not."""
    (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: mlflow.pyfunc.model}}\n")
    (folder / "requirements.txt").unlink()
    with pytest.raises(
        errors.RepositoryError,
        match=r"needs the module 'mlflow' \(model.py, line 1\): install it where the workers run",
    ):
        repository.add("m", folder)
