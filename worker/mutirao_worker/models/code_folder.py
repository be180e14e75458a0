"""A folder with a model of own code: model.py, with the modules and data that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mutirao import errors
from mutirao_worker.models import atomic_files, manifest_rules

FILES_MAX = 10_000
BYTES_MAX = 4 * 1024**3
_LEFT_OUT = {"__pycache__", "node_modules", "venv"}


def read(folder: Path) -> dict[str, bytes]:
    """Return a folder's files by name, without caches, hidden files and virtual environments.

    Raises:
        RepositoryError: it has no model.py, is too large, or a file cannot be read or lies elsewhere.
    """
    names = {path.relative_to(folder).as_posix(): path for path in _files(folder, folder.resolve())}
    if "model.py" not in names:
        text = "has no model.py: write one with a class Model (mutirao models init shows how), or name the model's file"
        raise errors.RepositoryError(f"{folder} is a folder that {text}")
    size = sum(path.stat().st_size for path in names.values())
    if len(names) > FILES_MAX or size > BYTES_MAX:
        text = f"holds {len(names):,} files of {size:,} bytes, the limit is {FILES_MAX:,} files of {BYTES_MAX:,} bytes"
        raise errors.RepositoryError(f"{folder} {text}: leave in it only what the model needs")
    for name, path in names.items():
        if not manifest_rules.is_file_name(name):
            raise errors.RepositoryError(f"{path} has a name that cannot be stored: rename it")
    return {name: atomic_files.read_file(path) for name, path in names.items()}


def _files(folder: Path, root: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in _LEFT_OUT or path.name.startswith(".") or path.suffix == ".pyc":
            continue
        if not path.resolve().is_relative_to(root) or (path.is_symlink() and path.is_dir()):
            raise errors.RepositoryError(f"{path} is a link: copy what it points to into the folder")
        if not path.is_dir():
            yield path
        elif not (path / "pyvenv.cfg").exists():
            yield from _files(path, root)
