"""`make release` refuses a version that is not the same everywhere, and the tree is always near to a release."""

import importlib.util
import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
assert SPEC is not None
assert SPEC.loader is not None
release = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(release)
FILES = ("pyproject.toml", "CHANGELOG.md", "SECURITY.md", *release.DOCKERFILES)
GOOD = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-02\n\n### Added\n\n- a thing\n"


@pytest.fixture
def checkout(tmp_path):
    """The files that name the version, ready for the release of 1.2.3."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace(f'"{version}"', '"1.2.3"'), encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(GOOD, encoding="utf-8")
    return tmp_path


def problems(checkout, version="1.2.3"):
    return list(release.sources(checkout, version))


def test_the_tree_has_one_version():
    """pyproject.toml and the images' labels say the same, and the changelog has it, with its date, before all older ones."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert [one for one in problems(ROOT, version) if "unreleased" not in one] == []
    assert f"| {version.rpartition('.')[0]} | yes" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_a_version_that_is_the_same_everywhere_passes(checkout):
    """Nothing is named where all agree."""
    assert problems(checkout) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("[1.2.3]", "[1.2.2]"), "the newest version is 1.2.2, not 1.2.3"),
        (GOOD.replace(" - 2026-01-02", ""), "has no date"),
        (GOOD.replace("## [1.2.3]", "### Fixed\n\n- more\n\n## [1.2.3]"), "'### Fixed' and what follows is unreleased"),
        (GOOD.replace("## [Unreleased]\n", ""), "the first heading is not ## [Unreleased]"),
        ("## [Unreleased]\n", "the newest version is none"),
    ],
)
def test_a_changelog_that_is_not_ready_is_named(checkout, text, says):
    """Another newest version, no date, lines left unreleased: each stops the release with what is to be done."""
    (checkout / "CHANGELOG.md").write_text(text, encoding="utf-8")
    (problem,) = problems(checkout)
    assert says in problem


@pytest.mark.parametrize("name", release.DOCKERFILES)
def test_an_image_of_another_version_is_named(checkout, name):
    """A label that was forgotten, or is not there, stops the release, by its file."""
    text = (checkout / name).read_text(encoding="utf-8")
    (checkout / name).write_text(text.replace("1.2.3", "1.2.2"), encoding="utf-8")
    assert problems(checkout) == [f"{name}: the image's label says 1.2.2, not 1.2.3"]
    (checkout / name).write_text(release.LABEL.sub("", text), encoding="utf-8")
    assert problems(checkout) == [f'{name}: no line LABEL org.opencontainers.image.version="1.2.3"']


def test_a_version_of_another_form_is_refused(checkout):
    """1.2 or 1.2.3rc1 is no version that is released here."""
    assert any("not of the form 1.2.3" in problem for problem in problems(checkout, "1.2"))


@pytest.mark.processes
def test_a_wheel_is_built_and_looked_into(tmp_path):
    """The wheel of the checkout carries its version and every module and script; one of another version is named."""
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("producer", "worker"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    release.build(tmp_path)
    assert list(release.wheel(tmp_path, version)) == []
    (tmp_path / "producer" / "mutirao" / "forgotten.lua").touch()
    (problem,) = release.wheel(tmp_path, version)
    assert problem.endswith("mutirao/forgotten.lua is not in it")
    assert list(release.wheel(tmp_path, "9.9.9")) == ["dist/: no mutirao-9.9.9-py3-none-any.whl was built"]
