"""requirements.txt: exact, hashed, and silent about where packages come from."""

import re
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
# A pin may stand twice, for different Pythons.
PINS = re.findall(
    r"^(\S+)==(\S+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", LOCK, re.MULTILINE
)


def declared():
    """Everything that the project or one of its extras asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]:
        asked = Requirement(line)
        if asked.name != project["name"]:
            yield asked


def test_the_lock_holds_pins_with_hashes_and_comments_only():
    """Each line of the lock is a pin, a hash or a comment: no option, no index, no address."""
    others = [line for line in LOCK.splitlines() if not re.match(r"[a-z0-9-]+==|    --hash=sha256:|\s*#", line)]
    assert not others
    assert "://" not in LOCK
    assert len(PINS) == len(re.findall(r"==\S+(?: ;.*)? \\$", LOCK, re.MULTILINE))


def test_the_lock_satisfies_the_project():
    """Each dependency of each extra is pinned to a version that pyproject.toml allows; else: make lock."""
    pins: dict[str, list[str]] = {}
    for name, version, _ in PINS:
        pins.setdefault(name, []).append(version)
    missed = [
        str(asked) for asked in declared() if not any(map(asked.specifier.contains, pins.get(asked.name.lower(), [])))
    ]
    assert not missed, "run: make lock"
