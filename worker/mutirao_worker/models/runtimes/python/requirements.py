"""The requirements.txt of a model's folder, compared with what is installed."""

from __future__ import annotations

import importlib.metadata
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement

FILE = "requirements.txt"
# Other distributions of the same code.
_SAME_CODE = {"mlflow": ("mlflow-skinny",)}


class Differences(NamedTuple):
    """How what is installed differs from what is required, a sentence each.

    Attributes:
        missing: packages that are not installed.
        other: packages that are there in another version.
    """

    missing: tuple[str, ...]
    other: tuple[str, ...]


def compare(text: bytes) -> Differences:
    """Compare the lines of a requirements.txt with what is installed; options, and lines that name no package, do not count."""
    missing, other = [], []
    for line in text.decode(errors="replace").replace("\\\n", " ").splitlines():
        required = _requirement(line)
        if required is None or (required.marker is not None and not required.marker.evaluate()):
            continue
        version = next(filter(None, map(_version, (required.name, *_SAME_CODE.get(required.name, ())))), "")
        if not version:
            missing.append(f"{required.name}{required.specifier}")
            continue
        if not required.specifier.contains(version, prereleases=True):
            other.append(f"{required.name} {version} is installed, {FILE} says {required.specifier}")
    return Differences(tuple(missing), tuple(other))


def _requirement(line: str) -> Requirement | None:
    text = line.partition(" #")[0].partition(" --")[0].strip()
    if not text or text[0] in "#-":
        return None
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
