"""`mutirao submit --rows` that is interrupted."""

import pytest

from mutirao import Client
from support.command_line import CommandLine

ROWS = "[[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]"


@pytest.fixture
def shell(capsys, monkeypatch, fleet):
    return CommandLine(capsys, monkeypatch).at(fleet.url)


def interrupt(monkeypatch, *, queued):
    """Have Ctrl-C come while the rows are sent: before Redis has them, or after."""
    real = Client.submit_many

    def submit_many(*args, **given):
        if queued:
            real(*args, **given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "submit_many", submit_many)


def test_ctrl_c_says_what_is_queued(shell, monkeypatch):
    """Whoever interrupts a submit of many rows gets the ids of those that are queued, which run all the same."""
    interrupt(monkeypatch, queued=True)
    code, out, err = shell.run("submit", "iris", ROWS, "--rows")
    assert (code, err) == (130, "all 2 requests are queued, and run: their ids follow\n\n")
    assert shell.says("result", *out.split(), "--wait").count("job ") == 2


def test_ctrl_c_says_that_nothing_is_queued(shell, monkeypatch):
    """Where Redis has none of them yet, that is what is said."""
    interrupt(monkeypatch, queued=False)
    assert shell.run("submit", "iris", ROWS, "--rows") == (130, "", "nothing is queued\n\n")
