"""The registry of runtimes: what each needs, and those that other packages bring."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mutirao import errors
from mutirao_worker.models import runtimes
from mutirao_worker.models.repository import Repository

PAGE = (Path(__file__).parents[2] / "docs" / "runtimes.md").read_text(encoding="utf-8")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution that brings the runtime `linear` as the page shows it, and one named `broken` that cannot be imported, as pip lays them out."""
    folder = tmp_path / "site"
    info = folder / "linear_weights-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "linear_weights.py").write_text(
        PAGE.partition("## A runtime of your own")[2].partition("```python\n")[2].partition("```")[0]
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: linear-weights\nVersion: 1.2\n")
    points = "linear = linear_weights:LinearPredictor\nbroken = nowhere:Predictor\nother = linear_weights:np\n"
    (info / "entry_points.txt").write_text(f"[{runtimes.ENTRY_POINTS}]\n{points}")
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("linear_weights", None)


@pytest.mark.usefixtures("installed")
def test_a_package_brings_a_runtime(tmp_path):
    """A runtime that an installed package announces loads and predicts; the manifest names its library and version."""
    (tmp_path / "weights.txt").write_text("1 2 3")
    repository = Repository(tmp_path / "models")
    info = repository.add("m", tmp_path / "weights.txt", runtime="linear")
    assert (info.runtime, repository.manifest("m").version.saved_with) == ("linear", "linear-weights 1.2")
    data = np.random.default_rng(0).random((5, 3))
    found = repository.load("m").predict({"X": data}, info.signature.select_outputs(None))
    assert np.array_equal(found["y"], data @ [1, 2, 3])
    assert repository.verify("m") == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", r"runtime 'missing' is not known: this worker has .*, broken, linear, other; another one comes with a package"),
        ("broken", r"runtime 'broken' \(nowhere:Predictor\) cannot be imported: No module named 'nowhere'"),
        ("other", r"runtime 'other' \(linear_weights:np\) is no subclass of Predictor"),
    ],
)  # fmt: skip
def test_a_runtime_that_cannot_be_used(name, says):
    """A runtime that nobody brings, that cannot be imported, or that is none is named, with where to find others."""
    with pytest.raises(errors.ModelUnavailable, match=says):
        runtimes.find(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("onnx", r'runtime \'onnx\' needs onnxruntime: pip install "mutirao\[onnx\]"'),
        ("skops", r'runtime \'skops\' needs skops: pip install "mutirao\[skops\]"'),
        ("xgboost", r'runtime \'xgboost\' needs xgboost-cpu: pip install "mutirao\[xgboost\]"'),
        ("lightgbm", r'runtime \'lightgbm\' needs lightgbm: pip install "mutirao\[lightgbm\]"'),
        ("torch", r'runtime \'torch\' needs torch: pip install "torch"'),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, name, says):
    """A runtime whose library is missing says what to install."""
    monkeypatch.setattr(runtimes, "_version", lambda _: "")
    with pytest.raises(errors.ModelUnavailable, match=says):
        runtimes.find(name)
