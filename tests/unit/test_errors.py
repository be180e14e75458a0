"""What an error keeps of what a caller sent."""

import pickle
import re

from mutirao import errors


def test_a_long_name_is_not_echoed_whole():
    """Text and data are cut in the middle and say how long they were; both ends stay, and short ones stay whole."""
    name = "a" * 500_000 + "z"
    error = errors.InvalidTensor(f"tensor {name!r}: it has no data", tensor=name)
    assert len(str(error)) < 9_000
    assert str(error).endswith("z': it has no data")
    assert re.search(r"\(500,0\d\d characters\)", str(error))
    assert len(error.data["tensor"]) < 1_100
    assert errors.InvalidTensor("tensor 'x'", tensor="x").data == {"tensor": "x"}


def test_an_error_goes_from_process_to_process():
    """A pickled error is the same error, with its data."""
    error = errors.PayloadTooLarge("too large", limit=3, size=4)
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), found.data) == (errors.PayloadTooLarge, "too large", {"limit": 3, "size": 4})
