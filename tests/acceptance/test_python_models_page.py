"""Each model.py that docs/python-models.md shows does what the page says."""

import json
import re
from pathlib import Path

import pytest

import mutirao.testing
from mutirao import InvalidInput

PAGE = (Path(__file__).parents[2] / "docs" / "python-models.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"^```python\n# (\w+)/model\.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def model(tmp_path):
    """Load a model of the page, with the file that it needs."""

    def load(name):
        (tmp_path / "model.py").write_text(SHOWN[name])
        (tmp_path / "prices.json").write_text(json.dumps({"tea": 3}))
        return mutirao.testing.load_model(tmp_path)

    return load


def test_objects_in_and_out_with_a_parameter(model):
    """The first example prices orders, by a factor, and refuses an unknown item in its words."""
    price = model("price")
    answer = price.predict([{"item": "tea", "count": 2}], parameters={"factor": 0.5})
    assert answer["predict"].tolist() == [{"price": 3.0}]
    with pytest.raises(InvalidInput, match=r"^there is no item 'milk'$"):
        price.predict([{"item": "milk", "count": 2}])


def test_images_one_by_one(model):
    """A single image gives an object."""
    sizes = model("sizes")
    assert sizes.predict([b"\x89PNG\xff", b"x"])["predict"].tolist() == [
        {"png": True, "bytes": 5},
        {"png": False, "bytes": 1},
    ]


def test_a_row_is_refused_without_another_call(model):
    """An InvalidInput in the list refuses the request."""
    speech = model("speech")
    assert speech.predict([b"RIFF\xff"])["predict"].tolist() == [5]
    with pytest.raises(InvalidInput, match=r"^the note is not WAV$"):
        speech.predict([b"OggS"])
