"""Changes to a folder that a reader sees whole or not at all, and that survive a power cut once they are seen."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from mutirao import errors

ALGORITHM = "sha256:"
_DRAFT = ".adding-"
_STALE_S = 86_400


def digest(content: bytes) -> str:
    """Return the digest of some bytes, as sha256:<64 hex digits>."""
    return ALGORITHM + hashlib.sha256(content).hexdigest()


def read_file(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        RepositoryError: there is no such file, or it cannot be read.
    """
    try:
        if path.is_file():
            return path.read_bytes()
        reason = "it is not a file" if path.exists() else "there is no such file"
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", "") or str(exc)
    raise errors.RepositoryError(f"{path} cannot be read: {reason}")


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file, or create it, in one step."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with _write_errors(path):
        try:
            write(draft, content)
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)


@contextlib.contextmanager
def draft_folder(parent: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """Create a folder with files that no reader sees; yield it, and remove it in the end if it has not been published.

    Args:
        parent: where it is to be.
        files: what it holds, by names relative to it.
    """
    draft = parent / f"{_DRAFT}{uuid.uuid4().hex}"
    try:
        with _write_errors(parent):
            draft.mkdir(parents=True)
            for name, content in files.items():
                write(draft / name, content)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, folder: Path) -> None:
    """Give a draft its place, in one step."""
    with _write_errors(folder):
        for below in (draft, *filter(Path.is_dir, draft.rglob("*"))):
            _fsync_folder(below)
        folder.parent.mkdir(exist_ok=True)
        draft.rename(folder)
        _fsync_folder(folder.parent)
        _fsync_folder(folder.parent.parent)


def remove_stale_drafts(parent: Path) -> None:
    """Remove the drafts of processes that were killed: those that nobody has changed for a day."""
    for draft in parent.glob(f"{_DRAFT}*"):
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > _STALE_S:
                shutil.rmtree(draft)


def remove_folder(folder: Path) -> None:
    """Rename a folder away in one step, then delete what is in it."""
    trash = folder.with_name(f".removed-{uuid.uuid4().hex}")
    with _write_errors(folder):
        folder.rename(trash)
        if trash.is_symlink():
            trash.unlink()
        else:
            shutil.rmtree(trash)


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes that change it; readers need no lock."""
    with _write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write(path: Path, content: bytes) -> None:
    """Write a new file, and its folders as far as they are not there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise errors.RepositoryError(f"{path} cannot be written: {exc.strerror}") from exc
