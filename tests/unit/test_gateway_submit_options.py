"""RFC 7240: what a client prefers."""

import pytest

from mutirao.gateway.requests.submit_options import Preference, preference

TABLE = [
    ([], Preference()),
    (["respond-async"], Preference(respond_async=True)),
    (["Respond-Async"], Preference(respond_async=True)),
    (["wait=10"], Preference(wait_s=10)),
    (['wait="10"'], Preference(wait_s=10)),
    (["wait = 10"], Preference(wait_s=10)),
    (["respond-async, wait=10"], Preference(respond_async=True, wait_s=10)),
    (["respond-async", "wait=10"], Preference(respond_async=True, wait_s=10)),
    (["wait=1, wait=2"], Preference(wait_s=1)),
    (["wait=1", "wait=2"], Preference(wait_s=1)),
    (["wait=soon, wait=2"], Preference()),
    (["wait=-1"], Preference()),
    (["wait=1.5"], Preference()),
    (["wait=99999999999999999999"], Preference()),
    (["wait=²"], Preference()),
    (["handling=lenient; x=y, return=minimal, respond-async; a=b"], Preference(respond_async=True)),
    ([",,;=,"], Preference()),
]


@pytest.mark.parametrize(("lines", "expected"), TABLE)
def test_a_header_is_read(lines, expected):
    """Names in any case, values quoted or not, the first of a repeated one; what is not known is ignored."""
    assert preference(lines) == expected


def test_what_was_applied_is_told():
    """Preference-Applied lists the tokens that mean something."""
    assert preference(["x, wait=3, respond-async"]).applied == "respond-async, wait=3"
    assert preference(["x"]).applied == ""
