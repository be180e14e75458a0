"""Changes to a folder that a reader sees whole or not at all, and that survive a power cut once they are seen."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from mutirao import errors

ALGORITHM = "sha256:"


def digest(content: bytes) -> str:
    """Name some bytes by their content."""
    return ALGORITHM + hashlib.sha256(content).hexdigest()


def read(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        RepositoryError: there is none, or it cannot be read.
    """
    try:
        if path.is_file():
            return path.read_bytes()
        reason = "it is not a file" if path.exists() else "there is no such file"
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", "") or str(exc)
    raise errors.RepositoryError(f"{path} cannot be read: {reason}")


def replace(path: Path, content: bytes) -> None:
    """Write a file over an old one of its name, in one step."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with _refused(path):
        try:
            _write(draft, content)
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        _flush(path.parent)


def make(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder with its files, in one step."""
    draft = folder.with_name(f".adding-{uuid.uuid4().hex}")
    with _refused(folder):
        try:
            draft.mkdir(parents=True)
            for name, content in files.items():
                _write(draft / name, content)
            _flush(draft)
            draft.rename(folder)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        _flush(folder.parent)


def remove(folder: Path) -> None:
    """Take a folder away in one step, then delete what is in it."""
    gone = folder.with_name(f".removed-{uuid.uuid4().hex}")
    with _refused(folder):
        folder.rename(gone)
        if gone.is_symlink():
            gone.unlink()
        else:
            shutil.rmtree(gone)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process change a folder at a time; readers need no lock."""
    with _refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise errors.RepositoryError(f"{path} cannot be written: {exc.strerror}") from exc
