"""The arrows between rooms: which module may import which."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = {
    each["name"]
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
}
# An import that breaks each contract: the module that has it, and what it says.
BREACHES = {
    "producer/mutirao/client/new.py": "def late():\n    import mutirao_worker.app\n",
    "producer/mutirao/doctor/new.py": "from mutirao.gateway import app\n",
    "producer/mutirao/gateway/state/new.py": "from mutirao.gateway.requests import request\n",
    "producer/mutirao/wire/new.py": "from mutirao import settings\n",
    "worker/mutirao_worker/engine/new.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import celery\n",
    "worker/mutirao_worker/models/new.py": "from mutirao_worker.engine import batcher\n",
}


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


def contracts(folder):
    """Which contracts of a checkout its imports keep, which they break, and what import-linter says."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    env = {**os.environ, "COLUMNS": "200", "PYTHONPATH": f"{folder / 'producer'}:{folder / 'worker'}"}
    said = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False).stdout
    found = {state: set(re.findall(rf"^(.*) {state}", said, re.MULTILINE)) for state in ("KEPT", "BROKEN")}
    return found["KEPT"], found["BROKEN"], said


def test_imports_keep_the_contracts():
    """Every contract of [tool.importlinter] holds."""
    kept, broken, said = contracts(ROOT)
    assert not broken, said
    assert kept == CONTRACTS, said


def test_a_contract_can_be_broken(tmp_path):
    """Lint refuses each import that a contract forbids, in a function and for types too, and names the contract."""
    for folder in ("producer", "worker"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, code in BREACHES.items():
        (tmp_path / path).write_text(code)
    _, broken, said = contracts(tmp_path)
    assert broken == CONTRACTS, said
    missing = [path for path in BREACHES if path.partition("/")[2].removesuffix(".py").replace("/", ".") not in said]
    assert not missing, said


@pytest.mark.parametrize("file", ["producer/mutirao/new.py", "worker/mutirao_worker/new.py", "tests/unit/test_new.py"])
def test_nobody_imports_a_folder(file):
    """Lint refuses `import producer` and `import worker` everywhere."""
    assert banned(file, "import producer.mutirao\nimport worker.mutirao_worker\n") == {"producer", "worker"}


@pytest.mark.parametrize("folder", ["producer", "worker"])
def test_no_module_lies_loose_in_a_folder(folder):
    """No Python file lies directly in producer/ or worker/: it would make the folder a package."""
    assert not list((ROOT / folder).glob("*.py"))
