"""What was done to each text before the vectorizer saw it; so it is done to each text that comes."""

import html
import re
import unicodedata

_NOISE = re.compile(r"<[^>]*>|https?://\S+|\S+@\S+|\d+")


def clean(text: str) -> str:
    """Return a text without markup, addresses, numbers and accents, in small letters."""
    plain = _NOISE.sub(" ", html.unescape(text))
    letters = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return " ".join(letters.lower().split())
