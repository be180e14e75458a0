"""The arrow between the two halves: mutirao_worker imports mutirao, never the reverse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def banned(file, code):
    """Names that ruff refuses as banned, were the code in that file."""
    ruff = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format",
        "json",
        "--no-cache",
        "--stdin-filename",
        file,
        "-",
    ]
    found = subprocess.run(ruff, cwd=ROOT, input=code, capture_output=True, text=True, check=False)
    return {one["message"].split("`")[1] for one in json.loads(found.stdout) if one["code"] == "TID251"}


@pytest.mark.parametrize(
    "code", ["import mutirao_worker.app", "from mutirao_worker import app", "def f():\n    import mutirao_worker"]
)
def test_the_light_half_may_not_import_the_heavy_one(code):
    """Lint refuses an import of mutirao_worker anywhere in producer/, in a function too."""
    assert banned("producer/mutirao/cli/new.py", code)


@pytest.mark.parametrize("file", ["worker/mutirao_worker/new.py", "tests/unit/test_new.py", "benchmarks/new.py"])
def test_the_heavy_half_may_import_both(file):
    """Worker, tests and benchmarks import either half."""
    assert not banned(file, "import mutirao_worker.app\nimport mutirao\n")


@pytest.mark.parametrize("file", ["producer/mutirao/new.py", "worker/mutirao_worker/new.py", "tests/unit/test_new.py"])
def test_nobody_imports_a_folder(file):
    """Lint refuses `import producer` and `import worker` everywhere."""
    assert banned(file, "import producer.mutirao\nimport worker.mutirao_worker\n") == {"producer", "worker"}


@pytest.mark.parametrize("folder", ["producer", "worker"])
def test_no_module_lies_loose_in_a_folder(folder):
    """No Python file lies directly in producer/ or worker/: it would make the folder a package."""
    assert not list((ROOT / folder).glob("*.py"))
