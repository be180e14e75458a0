# ruff: noqa: INP001 - a script of the image, in no package
"""Ends with 0 only when Flower answers with its password, refuses without it, and reaches the broker."""

from __future__ import annotations

import base64
import os
import sys
import urllib.error
import urllib.request

# Flower counts the queues in Redis to answer this one.
URL = "http://127.0.0.1:5555/api/queues/length"


def status(auth: str | None = None) -> int:
    """Ask for the queues' lengths; return the HTTP status."""
    headers = {"Authorization": "Basic " + base64.b64encode(auth.encode()).decode()} if auth else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(URL, headers=headers), timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def main() -> None:
    """Print what was seen; exit with 1 where it is not as it must be."""
    try:
        seen = (status(os.environ["FLOWER_BASIC_AUTH"]), status())
    except OSError as away:
        sys.exit(f"flower: no answer: {away}")
    if seen != (200, 401):
        sys.exit(f"flower: status {seen[0]} with the password, {seen[1]} without: expected 200 and 401")
    sys.stdout.write("flower: ok\n")


if __name__ == "__main__":
    main()
