"""`make install` on machines that lack something, and what the tree may not name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]


def _bare(folder):
    """A checkout that asks for no packages, so that nothing is fetched."""
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    (folder / "requirements.txt").touch()
    return folder


@pytest.fixture
def checkout(tmp_path):
    return _bare(tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A checkout with a .venv, whose making takes seconds; it came along from another checkout, and was made anew."""
    checkout = _bare(tmp_path_factory.mktemp("installed"))
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".home").write_text("/elsewhere\n")
    made = make_venv(checkout, PYTHON=sys.executable)
    assert made.returncode == 0, made.stderr
    return checkout


def make_venv(checkout, **env):
    command = ["bash", checkout / ".ci" / "venv"]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def programs(folder, *names):
    """A folder with these programs of the machine, and no other."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


def test_an_interpreter_that_does_not_fit_is_refused_by_name(checkout):
    """PYTHON=... that is no suitable Python is named in the error, and nothing is left behind."""
    made = make_venv(checkout, PYTHON="/bin/false")
    assert (made.returncode, made.stderr) == (
        1,
        "error: PYTHON=/bin/false is no Python 3.11 to 3.14 with the venv module\n",
    )
    assert not (checkout / ".venv").exists()


def test_a_machine_without_python_is_told_what_to_do(checkout):
    """Where no Python fits, the error says which are wanted and how to name one."""
    made = make_venv(checkout, PATH=programs(checkout / "bin", "bash", "dirname", "cat", "rm"))
    assert made.returncode == 1
    assert "found no Python 3.11 to 3.14 on the PATH" in made.stderr
    assert "make install PYTHON=" in made.stderr


def test_a_venv_of_another_checkout_is_made_anew(installed, tmp_path):
    """A .venv that was copied along with a checkout is replaced: its scripts would run the other checkout's code."""
    assert (installed / ".venv" / ".home").read_text() == f"{installed}\n"
    again = make_venv(installed, PATH=programs(tmp_path / "bin", "bash", "dirname", "cat", "rm"))
    assert again.returncode == 0, "a second time there is nothing to make"


def test_the_interpreter_that_is_named_is_the_one_that_is_used(installed, checkout):
    """A .venv of another interpreter than PYTHON=... names is made anew; one of the same is kept, and a wrong name is refused."""
    shutil.copytree(installed / ".venv", checkout / ".venv", symlinks=True)
    (checkout / ".venv" / ".home").write_text(f"{checkout}\n")
    (checkout / ".venv" / "kept").touch()
    assert make_venv(checkout, PYTHON=sys.executable).returncode == 0
    assert (checkout / ".venv" / "kept").exists()
    assert make_venv(checkout, PYTHON="/bin/false").stderr.startswith("error: PYTHON=/bin/false is no Python")
    assert (checkout / ".venv" / "kept").exists()
    # Another interpreter, as far as can be seen: a wrapper of this one that tells another version, and has a .venv ready.
    other = checkout / "python"
    other.write_text(
        f"""#!/bin/sh
        case "$*" in
            *sys.version,*) echo 3.12 elsewhere;;
            "-m venv .venv") cp -a {installed}/.venv/. .venv;;
            *) exec {sys.executable} "$@";;
        esac
        """
    )
    other.chmod(0o755)
    made = make_venv(checkout, PYTHON=str(other))
    assert made.returncode == 0, made.stderr
    assert not (checkout / ".venv" / "kept").exists()
    assert (checkout / ".venv" / ".home").read_text() == f"{checkout}\n"


def test_make_looks_at_the_interpreter_that_is_named(checkout):
    """`make install` beside a finished .venv does nothing, and with PYTHON=... looks whether it is that one."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".home").write_text(f"{checkout}\n")
    for name in (".locked", ".installed"):
        (checkout / ".venv" / name).touch()
    env = {name: value for name, value in os.environ.items() if name != "PYTHON"}

    def would(*args):
        command = ["make", "-n", "install", *args]
        return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=True).stdout

    assert ".ci/venv" not in would()
    assert ".ci/venv" in would("PYTHON=python3.12")


def test_a_venv_that_somebody_else_made_is_not_removed(checkout):
    """A .venv that `make install` did not make and cannot use is left alone, and the error says so."""
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").touch()
    made = make_venv(checkout, PYTHON=sys.executable)
    assert made.returncode == 1
    assert ".venv was not made by 'make install'" in made.stderr
    assert (checkout / ".venv" / "precious").exists()


def looked_through(folder):
    return subprocess.run(["bash", ROOT / ".ci" / "no-hosts", folder], capture_output=True, text=True, check=False)


def test_the_tree_names_no_registry_and_no_machine():
    """No file names a package registry, an index option or a path of one machine."""
    found = looked_through(ROOT)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "line",
    [
        "see https://" + "pypi" + ".org/simple",
        "--extra-" + "index-url https://example.org",
        "PIP_FIND_" + "LINKS=x",
        "cd /ro" + "ot/x",
    ],
)
@pytest.mark.parametrize("git", [True, False])
def test_a_registry_or_a_machine_is_found(tmp_path, line, git):
    """The check sees such a line in a file that git does not know yet, and where there is no git."""
    if git:
        subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "new.md").write_text(f"# fine\n{line}\n")
    found = looked_through(tmp_path)
    assert found.returncode == 1
    assert f"new.md:2:{line}" in found.stderr
