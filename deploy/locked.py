# ruff: noqa: INP001 - a script of the images' build, in no package
"""Prints the part of the lock (requirements.txt) that an image needs: exact versions with hashes, and nothing of the rest.

Arguments name what pyproject.toml asks for: `build` (the backend), `producer` (the dependencies), or an extra.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NAME = re.compile(r"[A-Za-z0-9._-]+")


def names(lines: list[str]) -> set[str]:
    """Take the packages' names out of requirements, as the lock spells them."""
    return {match[0].lower().replace("_", "-") for line in lines if (match := NAME.match(line))}


def asked(pyproject: dict[str, Any], groups: list[str]) -> set[str]:
    """Name what the groups ask for, without the project itself, which an extra may name."""
    project = pyproject["project"]
    known = {
        "build": pyproject["build-system"]["requires"],
        "producer": project["dependencies"],
        **project["optional-dependencies"],
    }
    return names([line for group in groups for line in known[group]]) - {project["name"]}


def entries(lock: str) -> Iterator[tuple[str, str, set[str]]]:
    """Yield each entry of the lock: its name, its text, and the packages because of which it is there."""
    for text in re.findall(
        r"^\S[^\n]*(?:\n[ ]+\S[^\n]*)*", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE), re.MULTILINE
    ):
        because = re.findall(r"^ +#(?: +via)? +([A-Za-z0-9._-]+)$", text, re.MULTILINE)
        yield min(names([text])), re.sub(r"\n +#.*", "", text), set(because)


def needed(lock: str, wanted: set[str]) -> list[str]:
    """Choose the entries that are wanted, and those that are there because of a chosen one."""
    found = list(entries(lock))
    chosen = set(wanted)
    while more := {name for name, _, because in found if because & chosen} - chosen:
        chosen |= more
    if missing := wanted - {name for name, _, _ in found}:
        sys.exit(f"locked.py: requirements.txt has no {', '.join(sorted(missing))}: run make lock")
    return [text for name, text, _ in found if name in chosen]


if __name__ == "__main__":
    pyproject = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    lines = needed((FOLDER / "requirements.txt").read_text(), asked(pyproject, sys.argv[1:]))
    sys.stdout.writelines(f"{line}\n" for line in lines)
