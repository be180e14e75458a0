"""How large a room and a module may be, and that no modules import each other in a circle."""

from collections import Counter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("producer/mutirao", "worker/mutirao_worker")
MODULES_MAX = 24
LINES_MAX = 400


def modules():
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_no_modules_import_each_other_in_a_circle():
    """No module imports, over whichever others, itself: imports for types and in functions count."""
    assert not circles(grimp.build_graph("mutirao", "mutirao_worker", cache_dir=None))


def test_a_circle_is_found():
    """A circle of three is told once, in order, and what only leads to it is not."""
    graph = grimp.ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"), ("c", "e")):
        graph.add_import(importer=importer, imported=imported)
    assert circles(graph) == [["a", "b", "c"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_has_at_most_24_modules(package):
    """A folder is small enough to be read at a glance."""
    folders = Counter(path.parent.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py"))
    assert not {folder: count for folder, count in folders.items() if count > MODULES_MAX}


def test_a_module_has_at_most_400_lines():
    """A module is one noun."""
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()
    }
    assert not {name: count for name, count in lines.items() if count > LINES_MAX}


def circles(graph):
    """Find the sets of modules each of which can be come to from each other, by their imports."""
    reached = {each: reach(graph, each) for each in graph.modules}
    found = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in reached if a in reached[a]}
    return sorted(map(list, found))


def reach(graph, start):
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.find_modules_directly_imported_by(waiting.pop()) - found
        found |= new
        waiting += new
    return found
