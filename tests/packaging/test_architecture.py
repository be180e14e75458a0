"""The picture of the architecture is the code's."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "architecture.md"
DRAWN = (
    "celery_adapter/pool", "celery_adapter/task_events", "celery_adapter/transport", "client/encoding", "client/result_listener",
    "engine/batcher", "engine/commit", "engine/dispatcher", "engine/leases", "engine/request", "engine/request_sources",
    "inference/execution", "inference/inputs", "inference/outputs",
)  # fmt: skip
SOURCES = {"producer": "mutirao", "worker": "mutirao_worker"}


@functools.cache
def table() -> str:
    """Make the table of docs/architecture.md from the modules' first lines (python tests/packaging/test_architecture.py writes it)."""
    lines = []
    for folder, package in SOURCES.items():
        lines += ["", f"### {package}", "", "| module | |", "|---|---|"]
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            name = path.relative_to(ROOT / folder / package).with_suffix("").as_posix().removesuffix("/__init__")
            if text and name != "__init__":
                lines.append(f"| `{name}` | {text.splitlines()[0]} |")
    return "\n".join(lines).strip()


def test_every_module_is_in_the_picture_with_its_own_words():
    """docs/architecture.md names every module, and says of it what the module says of itself."""
    assert _kept() == table()


@pytest.mark.parametrize("name", DRAWN)
def test_the_flow_names_modules_that_exist(name):
    """The modules in the drawing of a request's way are modules."""
    assert re.search(rf"[│·] {name}\b", PICTURE.read_text(encoding="utf-8").split("```")[1])
    assert f"`{name}`" in table()


def test_the_trip_names_modules_that_exist():
    """Each module that the trip of one request, and the reasons below it, pass through is a module."""
    page = PICTURE.read_text(encoding="utf-8").split("## The modules")[0].split("## The trip of one request")[1]
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_0-9]+)+)`", page))
    assert len(named) > 15
    assert sorted(name for name in named if f"`{name}`" not in table()) == []


def test_contributing_names_places_that_exist():
    """Each folder and file that CONTRIBUTING.md sends a reader to is there."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Where things go")[1].split("\n## ")[0]
    named = re.findall(r"`((?:producer|worker|deploy|benchmarks|docs|tests|\.ci)/[\w./-]*)`", page)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_failure_matrix_names_tests_that_exist():
    """Each test that docs/reliability.md names as the proof of a row is a test."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    missing = [
        f"{path}::{test}" for path, test in named if f"def {test}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert not missing


def _kept() -> str:
    return (
        PICTURE.read_text(encoding="utf-8")
        .split("<!-- modules: begin -->")[1]
        .split("<!-- modules: end -->")[0]
        .strip()
    )


if __name__ == "__main__":
    before, _, rest = PICTURE.read_text(encoding="utf-8").partition("<!-- modules: begin -->")
    after = rest.partition("<!-- modules: end -->")[2]
    PICTURE.write_text(
        f"{before}<!-- modules: begin -->\n\n{table()}\n\n<!-- modules: end -->{after}", encoding="utf-8"
    )
