"""The files of a version as they lie in the repository: read whole, and only if their digests are those of the manifest."""

from __future__ import annotations

from pathlib import Path

from mutirao import errors
from mutirao_worker.models import atomic_files, manifest_file
from mutirao_worker.models.manifest import Manifest


def read_all(root: Path, manifest: Manifest, version: str) -> dict[str, bytes]:
    """Return the bytes of a version's files, by name.

    Raises:
        DigestMismatch, ModelUnavailable: as `read`.
    """
    return {file: read(root, manifest, version, file) for file in manifest.versions[version].files}


def read(root: Path, manifest: Manifest, version: str, file: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        DigestMismatch: it is not the one that the manifest names.
        ModelUnavailable: it is missing, cannot be read, or is a link out of the repository.
    """
    path = root / manifest.name / version / file
    if not is_inside(root, path):
        raise unavailable_error(manifest.name, f"{path} is a link out of the repository: copy the file into it")
    if not path.is_file():
        raise unavailable_error(manifest.name, f"{path} is missing: put it back, or add the model again")
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise unavailable_error(manifest.name, f"{path} cannot be read: {exc.strerror}") from exc
    wanted, got = manifest.versions[version].files[file], atomic_files.digest(raw)
    if got != wanted:
        mismatch = f"its digest is {got[:15]}..., {manifest_file.FILE} names {wanted[:15]}..."
        raise errors.DigestMismatch(
            f"{path} is not the file that was added: {mismatch}; put it back, or add it as a new version",
            path=str(path),
        )
    return raw


def is_inside(root: Path, path: Path) -> bool:
    """Whether a path leads to something within the repository, over whatever links."""
    return path.resolve().is_relative_to(root.resolve())


def unavailable_error(name: str, reason: str) -> errors.ModelUnavailable:
    """Return the error of a model that cannot be served."""
    return errors.ModelUnavailable(reason, model=name, reason=reason)
