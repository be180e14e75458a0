"""`mutirao demo`, and what it does when an answer is wrong."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from mutirao import Client, errors
from mutirao_worker import demo
from support.command_line import CommandLine


@pytest.fixture
def shell(capsys, monkeypatch):
    return CommandLine(capsys, monkeypatch)


def test_demo_answers_every_row_and_ends_with_0(tmp_path):
    """One command fits, serves and asks four models, and says that every answer is the model's own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MUTIRAO_")}
    command = [sys.executable, "-m", "mutirao", "demo"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "676 answers, every one equal to the model's own" in done.stdout
    assert [
        stat.S_IMODE(folder.stat().st_mode) for folder in (tmp_path / ".mutirao", tmp_path / ".mutirao" / "demo")
    ] == [
        0o700,
        0o700,
    ]
    for name in ("iris", "breast-cancer", "wine", "digits"):
        assert name in done.stdout


def test_demo_where_nothing_can_be_written_says_so(tmp_path, shell):
    """In a folder that cannot be written the demo ends with one line that names it and the remedy, before it fits anything."""
    (tmp_path / "file").touch()
    code, out, err = shell.run("demo", "--home", tmp_path / "file" / "home")
    assert (code, out) == (1, "")
    assert err == (
        f"error: the folder {tmp_path / 'file' / 'home'} cannot be written (Not a directory): choose another with MUTIRAO_HOME\n"
    )


def test_demo_refuses_an_answer_that_is_not_the_models_own(fleet):
    """Where the fleet answers otherwise than the fitted model would, the demo says how many answers are wrong."""
    rows = np.array([[5.1, 3.5, 1.4, 0.2], [5.0, 3.4, 1.5, 0.2]])
    other = DummyClassifier(strategy="constant", constant=2).fit(rows, [0, 2])
    with (
        Client(fleet.url) as client,
        pytest.raises(errors.MutiraoError, match="2 of 2 answers are not the model's own"),
    ):
        demo.run(client, [demo.Sample("iris", other, rows, [0, 0])], 30)
