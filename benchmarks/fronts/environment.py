"""A virtual environment beside ours, for what cannot be installed into it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class InstallFailed(RuntimeError):
    """pip could not install what is to be measured against."""


def made(folder: Path, packages: Sequence[str]) -> Path:
    """Make the environment, or take the one that has just these packages.

    Returns:
        Its folder of programs.
    """
    done, wanted = folder / "packages.txt", "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        # Without ensurepip, which not every machine has: our own pip installs into it.
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
        _run([*pip, "install", "--quiet", *packages])
        done.write_text(wanted)
    return folder / "bin"


def _run(command: Sequence[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stdout + ended.stderr)[-2000:]
        raise InstallFailed(f"{' '.join(command)} ended with {ended.returncode}: {said}")
