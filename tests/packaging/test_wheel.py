"""What is built and installed, as opposed to what lies in the checkout."""

import subprocess
import sys
from email import message_from_bytes
from importlib.metadata import EntryPoint
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "producer" / "mutirao", ROOT / "worker" / "mutirao_worker"]
HEAVY = {"celery", "joblib", "kombu", "pandas", "scikit-learn", "scipy", "threadpoolctl"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (path,) = folder.glob("*.whl")
    with ZipFile(path) as opened:
        yield opened


def dist_info(wheel, name):
    return next(wheel.read(path) for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))


def entry_points(wheel):
    group = ""
    for line in dist_info(wheel, "entry_points.txt").decode().splitlines():
        if line.startswith("["):
            group = line.strip("[]")
        elif line:
            name, value = line.split(" = ")
            yield EntryPoint(name, value, group)


def test_two_names_are_installed(wheel):
    """The wheel puts mutirao and mutirao_worker into site-packages, and nothing else."""
    tops = {path.split("/")[0] for path in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mutirao", "mutirao_worker"}


def test_all_that_the_code_reads_is_in_the_wheel(wheel):
    """Each module, script, page and marker of the two packages is in the wheel: an image has only that."""
    kept = {".css", ".html", ".js", ".lua", ".py", ".svg", ".typed"}
    wanted = {
        path.relative_to(source.parent).as_posix()
        for source in SOURCES
        for path in source.rglob("*")
        if path.suffix in kept and "__pycache__" not in path.parts
    }
    assert wanted <= set(wheel.namelist())
    assert {"mutirao/py.typed", "mutirao_worker/py.typed"} <= wanted
    assert any(name.startswith("mutirao/redisdb/scripts/") and name.endswith(".lua") for name in wanted)


def test_the_licence_goes_along(wheel):
    """The wheel carries the Apache licence."""
    assert b"Apache License" in dist_info(wheel, "licenses/LICENSE")


def test_entry_points_resolve(wheel):
    """Each command that the wheel announces can be loaded and called."""
    found = list(entry_points(wheel))
    assert {point.name for point in found if point.group == "console_scripts"} == {"mutirao"}
    assert {point.name for point in found if point.group == "mutirao.commands"} >= {"demo", "models", "worker"}
    for point in found:
        assert callable(point.load()), point


def test_a_producer_installs_nothing_heavy(wheel):
    """Without an extra, pip installs no Celery, scikit-learn or pandas."""
    lines = message_from_bytes(dist_info(wheel, "METADATA")).get_all("Requires-Dist", [])
    needs = {one.name for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate({"extra": ""})}
    assert needs.isdisjoint(HEAVY), needs
    assert {"click", "msgspec", "numpy", "redis"} <= needs
