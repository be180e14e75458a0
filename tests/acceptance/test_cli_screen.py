"""What commands print on a screen of 80 columns, and into a pipe."""

import os
import pty
import re
import subprocess
import sys
import termios

from mutirao.cli import console, render_jobs

URL = "redis://127.0.0.1:1/0"


def seen(*args, columns=80):
    """What a person sees who types it: stdout and stderr together, on a terminal of that width."""
    return drawn([sys.executable, "-m", "mutirao", *args], columns)


def drawn(command, columns=80):
    """What a command writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"MUTIRAO_BROKER_URL": URL}
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        said = b""
        while part := read(ours):
            said += part
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).replace("\r\n", "\n")


def read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def words(text):
    return text.replace("error:", "").split()


def test_no_word_is_broken_on_a_screen():
    """At 80 columns a long error and doctor's findings are wrapped between words, each below its own column."""
    for args in (("status", "x"), ("doctor",)):
        narrow, wide = seen(*args), seen(*args, columns=10_000)
        assert max(map(len, narrow.splitlines())) < 80 < max(map(len, wide.splitlines()))
        assert words(narrow) == words(wide)
    finding = seen("doctor").splitlines()[0]
    assert finding.startswith("problem  answer")


def test_an_id_can_be_copied_from_a_table():
    """In a table that is too wide for the screen the ids stay whole, and the columns beside them are folded."""
    id = "01a223d3-f41a-76b4-9ce9-75008cc50907"
    row = (
        id,
        "a model of a long name",
        "the process died three times",
        "worker1@a-long-name.example",
        "28 Nov 2026 20:35:07",
    )
    code = f"from mutirao.cli import console; console.table(('id', 'model', 'reason', 'worker', 'when'), [{row!r}])"
    said = drawn([sys.executable, "-c", code])
    assert id in said
    assert max(map(len, said.splitlines())) <= 80


def test_an_error_into_a_pipe_is_one_line():
    """Where nobody looks an error stays one line, however long."""
    env = os.environ | {"MUTIRAO_BROKER_URL": URL, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "mutirao", "status", "x"], env=env, capture_output=True, text=True, check=False
    )
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) > 80


def test_a_table_into_a_pipe_is_not_padded(capsys):
    """Each row is a line, its cells apart by tabs; what a cell has of either is a space."""
    console.table(("model", "state"), [("iris", "ready"), ("a longer name", "failed:\n\tno file")])
    assert capsys.readouterr().out == "model\tstate\niris\tready\na longer name\tfailed: no file\n"


def test_a_time_is_written_as_people_read_it(monkeypatch):
    """A day with its month's name and a time to the second, in this machine's zone."""
    monkeypatch.setenv("TZ", "America/Sao_Paulo")
    assert re.fullmatch(r"\d{1,2} Nov 2026 \d\d:\d\d:\d\d", render_jobs.moment(1795790000.123))
