"""Results as JSON and as a table."""

import json

import msgspec
import numpy as np
import pytest

from mutirao.cli import console, render_outputs
from mutirao.errors import InvalidTensor
from mutirao.wire.messages import JobInfo, JobRecord

RECORD = JobRecord(status="SUCCESS", task_id="i", job=JobInfo(model="m", version="2"))


def document(**outputs):
    """The document of these outputs, as a script reads it."""
    return json.loads(msgspec.json.encode(render_outputs.document(RECORD, outputs)))


def test_a_result_document_is_flat_and_exact():
    """Id, model, version, and nested lists by output; every float64 survives."""
    rows = np.array([[0.1, 1 / 3], [5e-324, 1.7976931348623157e308]])
    assert document(p=rows) == {"id": "i", "model": "m", "version": "2", "outputs": {"p": rows.tolist()}}


def test_nan_and_infinities_are_named():
    """JSON has no NaN: the words stand there that float() and Number() read."""
    found = document(p=np.array([1.5, np.nan, np.inf, -np.inf]))["outputs"]["p"]
    assert found == [1.5, "NaN", "Infinity", "-Infinity"]
    assert np.array_equal(np.array(found, dtype=float), [1.5, np.nan, np.inf, -np.inf], equal_nan=True)


def test_bytes_that_are_no_text_are_refused():
    """What JSON cannot carry is not turned into something else in silence."""
    with pytest.raises(InvalidTensor, match=r"'p' .* mutirao\.Client"):
        document(p=np.array([b"\xff"], dtype=object))


@pytest.mark.parametrize(
    ("terminal", "lines", "note"),
    [(True, render_outputs.ROWS + 4, f"{render_outputs.ROWS} of 50 rows"), (False, 50 + 1, "")],
)
def test_a_terminal_gets_a_screenful(monkeypatch, capsys, terminal, lines, note):
    """A person sees the first rows, short numbers and few columns, and is told; a pipe gets everything, exact, and no frame."""
    monkeypatch.setattr(console, "terminal", lambda: terminal)
    console._console.cache_clear()
    render_outputs.show({"p": np.full((50, 30), 1 / 3)})
    said = capsys.readouterr()
    assert said.out.count("\n") == lines
    assert (str(1 / 3) in said.out, "... (30 values)" in said.out) == (not terminal, terminal)
    assert note in said.err
    console._console.cache_clear()
