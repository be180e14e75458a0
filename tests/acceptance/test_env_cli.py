"""`mutirao env`: how programs that are not mutirao's find the system of a folder."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mutirao.embedded import Embedded
from support.command_line import CommandLine

PING = "import os, redis; print(redis.Redis.from_url(os.environ['MUTIRAO_BROKER_URL']).ping())"


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """A system without workers, in a folder whose name sh would take apart."""
    with Embedded(tmp_path_factory.mktemp("with space 'n quote") / ".mutirao", workers=0, flower=False) as system:
        yield system


@pytest.fixture
def shell(capsys, monkeypatch):
    return CommandLine(capsys, monkeypatch)


@pytest.mark.parametrize("shell_name", ["sh", "bash"])
def test_what_it_prints_is_evaluated_by_a_shell(system, shell_name):
    """After `eval "$(mutirao env)"` any program of that terminal reaches the Redis of this folder, whatever the variable was."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MUTIRAO_")}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "MUTIRAO_BROKER_URL": "redis://elsewhere:1/0"}
    command = [shell_name, "-ec", f'eval "$(mutirao env)"; {sys.executable} -c "{PING}"']
    done = subprocess.run(command, cwd=system.home.path.parent, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_json_is_the_same_for_other_shells(system, shell):
    """--json prints one document, of the variables alone."""
    assert shell.json("env", "--home", system.home.path) == [{"MUTIRAO_BROKER_URL": system.broker_url}]


def test_a_url_is_quoted_for_sh(tmp_path, shell):
    """Nothing in a URL means anything to the shell."""
    url = "redis://:a'b$(id)@127.0.0.1:1/0"
    (tmp_path / "up.json").write_bytes(msgspec.json.encode({"pid": os.getpid(), "broker_url": url}))
    said = shell.says("env", "--home", tmp_path)
    echoed = subprocess.run(
        ["sh", "-c", f'{said}\nprintf %s "$MUTIRAO_BROKER_URL"'], capture_output=True, text=True, check=True
    )
    assert echoed.stdout == url


def test_where_no_system_runs_it_says_so(tmp_path, shell):
    """Nothing is printed for eval; the error names the folder and the remedy, and the exit code says unavailable."""
    assert shell.run("env", "--home", tmp_path) == (
        4,
        "",
        f"error: no system runs in {tmp_path}: start one with mutirao up, or name another folder with --home\n",
    )
