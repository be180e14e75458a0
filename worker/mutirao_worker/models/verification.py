"""Whether a model can be served: its files against their digests, and the active version against its example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from mutirao import errors
from mutirao_worker.models import manifest_file, step_loading, version_files
from mutirao_worker.models.loaded_model import LoadedModel
from mutirao_worker.models.manifest import Manifest


class Finding(msgspec.Struct, frozen=True):
    """A result of `verify`; a note does not keep the model from being served."""

    version: str
    text: str
    note: bool = False


def find(root: Path, manifest: Manifest, folders: Sequence[str], load: Callable[[], LoadedModel]) -> list[Finding]:
    """Check every version's files, and load and try the active one; an empty list means that it can be served.

    Args:
        root: the repository's folder.
        manifest: the model's.
        folders: its versions' folders.
        load: loads the active version.
    """
    findings = [*_unlisted(root, manifest, folders), *_damaged(root, manifest)]
    broken = any(finding.version == manifest.active and not finding.note for finding in findings)
    return findings if broken else [*findings, *_unservable(root, manifest, load)]


def _unlisted(root: Path, manifest: Manifest, folders: Sequence[str]) -> Iterator[Finding]:
    for folder in folders:
        if folder not in manifest.versions:
            text = f"{root / manifest.name / folder} is not in {manifest_file.FILE}: it is never served"
            yield Finding(folder, text, note=True)


def _damaged(root: Path, manifest: Manifest) -> Iterator[Finding]:
    for version, listed in manifest.versions.items():
        for file in listed.files:
            try:
                version_files.read(root, manifest, version, file)
            except errors.MutiraoError as exc:
                yield Finding(version, str(exc))


def _unservable(root: Path, manifest: Manifest, load: Callable[[], LoadedModel]) -> Iterator[Finding]:
    try:
        loaded = load()
    except errors.MutiraoError as exc:
        yield Finding(manifest.active, str(exc))
        return
    if loaded.info.reason:
        yield Finding(manifest.active, loaded.info.reason, note=True)
    try:
        loaded.warm_up()
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - the model's own code runs here
        where = root / manifest.name / manifest.active
        text = f"{where} loads, but does not answer its example as it should: {step_loading.describe_error(exc)}"
        yield Finding(manifest.active, text)
