"""Words mean one thing: docs/glossary.md defines them, and those that were given up come back nowhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
]
MODULES = sorted(
    path for folder in ("producer/mutirao", "worker/mutirao_worker") for path in (ROOT / folder).rglob("*.py")
)
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
TERMS = re.findall(r"^\| ([^|`]+?) \| (.+) \|$", GLOSSARY.replace("| term | meaning |", ""), re.MULTILINE)

# Words that were given up for a term of the field, or that say too little. Names in backticks are the wire's and stay.
FORMS = re.compile(
    r"\b("
    r"aside|bells?|bur(y|ied|ies)|beside|couriers?|door(s|keepers?)?|hungry|spared?"
    r"|heard|hears?|nobody|anybody|somebody|rings?|settle[ds]?|told"
    r"|tend(s|ed|ing)?|unheard|unsure|vet(s|ted|ting)?|untold|the hold|whoever|HTTP front"
    r")\b",
    re.IGNORECASE,
)


def prose(text: str) -> str:
    """Leave out what is code: fenced blocks, names in backticks, addresses of links."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "", text))


def retired(text: str) -> set[str]:
    return {found.group().lower() for found in FORMS.finditer(prose(text))}


def summary(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return text.splitlines()[0] if text else ""


def test_terms_stand_once():
    """The glossary has some forty terms or more, each once, each with a meaning that is not empty."""
    terms = [term for term, meaning in TERMS if meaning.strip()]
    assert len(terms) >= 40
    assert sorted(terms) == sorted(set(terms))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_use_no_retired_word(path):
    """No page says bell, vet or courier where the glossary has a term of the field; the generated table has a test of its own."""
    page = re.sub(
        r"<!-- modules: begin -->.*<!-- modules: end -->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    assert not retired(page)


def test_summaries_use_no_retired_word():
    """The first line of a module, which is its row in docs/architecture.md, is in the terms of the glossary."""
    found = {path.relative_to(ROOT).as_posix(): retired(summary(path)) for path in MODULES}
    assert {name: words for name, words in found.items() if words} == {}


def test_the_words_are_found():
    """A retired word is found in any form, a wire name in backticks is not one."""
    found = retired("It rings a Bell and vets messages beside it. `mutirao:bell:x` [a](bell.md)")
    assert found == {"bell", "beside", "rings", "vets"}
