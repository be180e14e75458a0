"""Celery clients of Node, as `npm` installs them from the lock in tests/contract/node: once, into a folder that git ignores."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

NODE, NPM = shutil.which("node"), shutil.which("npm")
MISSING = "" if NODE and NPM else "Node or npm is not installed (apt-get install nodejs npm)"
SKIPPED = bool(MISSING) and not os.environ.get("CI")

_HERE = Path(__file__).parents[1] / "contract" / "node"
_FOLDER = Path(__file__).parents[2] / ".cache" / "node"


def run(script: str, url: str, given: Any) -> Any:
    """Run a script of tests/contract/node with these clients; it is given JSON and prints JSON."""
    assert NODE, MISSING
    env = {**os.environ, "NODE_CLIENTS": str(_installed() / "package.json")}
    ended = subprocess.run(
        [NODE, str(_HERE / script), url],
        capture_output=True,
        check=False,
        env=env,
        input=msgspec.json.encode(given),
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return msgspec.json.decode(ended.stdout)


def _installed() -> Path:
    """Install what the lock says, or take what is there of this very lock."""
    assert NPM, MISSING
    lock, done = _HERE / "package-lock.json", _FOLDER / "installed.json"
    if not done.exists() or done.read_bytes() != lock.read_bytes():
        shutil.rmtree(_FOLDER, ignore_errors=True)
        _FOLDER.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_HERE / name, _FOLDER)
        subprocess.run(
            [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=_FOLDER, check=True
        )
        shutil.copy(lock, done)
    return _FOLDER
