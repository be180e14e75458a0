"""Check that a version is ready to be released, and build its wheel and its source archive into `dist/`: `make release`.

The version in pyproject.toml, the newest heading of CHANGELOG.md, the wheel's own metadata and the label of each image must be the same.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

DOCKERFILES = ("producer/Dockerfile", "worker/Dockerfile", "deploy/redis/Dockerfile")
LABEL = re.compile(r'^LABEL org\.opencontainers\.image\.version="([^"]*)"$', re.MULTILINE)
VERSION = re.compile(r"\d+\.\d+\.\d+")
HEADING = re.compile(r"^## \[([^\]]+)\](?: - (\S+))?\s*$", re.MULTILINE)
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def main(root: Path) -> int:
    """Check, build and say how to tag; the exit code is 1 where something differs."""
    version = str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    problems = [*sources(root, version)]
    if not problems:
        build(root)
        problems = [*wheel(root, version)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        print(
            f"mutirao {version} is in dist/; commit, then: git tag --annotate v{version} --message 'mutirao {version}'"
        )
    return int(bool(problems))


def sources(root: Path, version: str) -> Iterator[str]:
    """Name what differs from the version in the checkout."""
    if not VERSION.fullmatch(version):
        yield f"pyproject.toml: version {version!r} is not of the form 1.2.3"
    yield from changelog((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    for name in DOCKERFILES:
        labels = LABEL.findall((root / name).read_text(encoding="utf-8"))
        if not labels:
            yield f'{name}: no line LABEL org.opencontainers.image.version="{version}"'
        yield from (f"{name}: the image's label says {label}, not {version}" for label in labels if label != version)


def changelog(text: str, version: str) -> Iterator[str]:
    """Name what is wrong with the changelog: the version comes first, has a date, and nothing is left unreleased."""
    headings = list(HEADING.finditer(text))
    if not headings or headings[0][1] != "Unreleased":
        yield "CHANGELOG.md: the first heading is not ## [Unreleased]"
        return
    released = headings[1] if len(headings) > 1 else None
    pending = text[headings[0].end() : released.start() if released else len(text)].strip()
    if pending:
        yield f"CHANGELOG.md: {pending.splitlines()[0]!r} and what follows is unreleased: move it under ## [{version}]"
    if released is None or released[1] != version:
        yield f"CHANGELOG.md: the newest version is {released[1] if released else 'none'}, not {version}"
    elif not DATE.fullmatch(released[2] or ""):
        yield f"CHANGELOG.md: ## [{version}] has no date: ## [{version}] - YYYY-MM-DD"


def build(root: Path) -> None:
    """Build the wheel and the source archive."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", root / "dist"], cwd=root, check=True)


def wheel(root: Path, version: str) -> Iterator[str]:
    """Name what differs in the wheel: its version, and the modules and scripts that it should carry."""
    path = root / "dist" / f"mutirao-{version}-py3-none-any.whl"
    if not path.exists():
        yield f"dist/: no {path.name} was built"
        return
    with ZipFile(path) as opened:
        carried = set(opened.namelist())
        said = message_from_bytes(opened.read(f"mutirao-{version}.dist-info/METADATA"))["Version"]
    if said != version:
        yield f"{path.name}: its metadata says {said}, not {version}"
    for source in (root / "producer" / "mutirao", root / "worker" / "mutirao_worker"):
        for file in sorted(source.rglob("*")):
            name = file.relative_to(source.parent).as_posix()
            if file.suffix in {".py", ".lua", ".typed"} and "__pycache__" not in file.parts and name not in carried:
                yield f"{path.name}: {name} is not in it"


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[1]))
