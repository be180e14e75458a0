"""Limit how many values a body holds, before any of them is decoded: a few bytes of text can be a large object in memory."""

from __future__ import annotations

import re

from mutirao import errors

# Values in one body of JSON or CSV, and texts in one of any form. As Python's objects they take a hundred bytes each.
VALUES_MAX = 2_000_000
# Lists and objects in one body of JSON; the requests of the largest batch have six each.
LISTS_MAX = 1_000_000

# To its end, or to the body's where it has none, so that no part is looked at twice.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_REMEDY = "send fewer, or numbers in the binary form"


def check_json(body: bytes) -> None:
    """Refuse a body of JSON that would take too much memory.

    Raises:
        PayloadTooLarge: it holds more values, or more lists and objects, than are read.
    """
    if _fits(body):
        return
    without = _TEXT.sub(b"", body)  # commas and brackets in text are none
    if not _fits(without):
        values, lists = _sizes(without)
        what, most = ("lists and objects", LISTS_MAX) if lists > LISTS_MAX else ("values", VALUES_MAX)
        text = f"the body holds more than {most:,} {what}: {_REMEDY}"
        raise errors.PayloadTooLarge(text, limit=most, size=max(values, lists))


def check_csv(body: bytes) -> None:
    """Make sure that a body of CSV can be read.

    Raises:
        PayloadTooLarge: it has more cells than are read.
    """
    cells = max(body.count(sign) for sign in (b",", b";", b"\t", b"|")) + max(body.count(b"\n"), body.count(b"\r"))
    if cells > VALUES_MAX:
        text = f"the CSV has more than {VALUES_MAX:,} cells: {_REMEDY}"
        raise errors.PayloadTooLarge(text, limit=VALUES_MAX, size=cells)


def check_text(count: int) -> None:
    """Make sure that so many texts can be read.

    Raises:
        PayloadTooLarge: they are more than are read.
    """
    if count > VALUES_MAX:
        text = f"the body holds more than {VALUES_MAX:,} texts: send fewer"
        raise errors.PayloadTooLarge(text, limit=VALUES_MAX, size=min(count, 2**63))


def _fits(body: bytes) -> bool:
    values, lists = _sizes(body)
    return values <= VALUES_MAX and lists <= LISTS_MAX


def _sizes(body: bytes) -> tuple[int, int]:
    return body.count(b",") + 1, body.count(b"[") + body.count(b"{")
