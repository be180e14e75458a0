"""Escaping text from elsewhere, so that a terminal, a log or a record may show it."""

from __future__ import annotations


def escaped(text: str) -> str:
    r"""Escape line breaks, control characters and all else that cannot be printed, as Python's literals do: \n, \x1b."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
