"""The headers and the query of a request to the gateway."""

import pytest

from mutirao.errors import InvalidRequest
from mutirao.gateway.requests.request import Head


@pytest.mark.parametrize(
    "name",
    [
        "content-encoding",
        "content-type",
        "idempotency-key",
        "inference-header-content-length",
        "last-event-id",
        "mutirao-expires",
    ],
)
def test_a_header_with_two_values_is_refused(name):
    """Where one value counts, another beside it is refused by name; the same twice, as of a clumsy proxy, is not."""
    lines = [(name.encode(), b"a"), (b"accept", b"x"), (name.encode(), b"b")]
    with pytest.raises(InvalidRequest, match=f"header {name} comes twice, as 'a' and as 'b': send it once"):
        Head(lines, b"")
    assert Head([*lines[:2], lines[0]], b"").header(name.encode()) == "a"


def test_headers_that_are_lists_may_be_repeated():
    """Accept, Prefer and what proxies add may come in several lines."""
    head = Head([(b"prefer", b"wait=1"), (b"prefer", b"respond-async"), (b"via", b"a"), (b"via", b"b")], b"")
    assert head.every(b"prefer") == ["wait=1", "respond-async"]


def test_a_parameter_with_two_values_is_refused():
    """?priority=high&priority=low is refused; a list has all of its values, and the same value twice is one."""
    head = Head([], b"priority=high&outputs=a&priority=low&outputs=b&wait=1&wait=1")
    with pytest.raises(InvalidRequest, match="parameter priority comes twice, as 'high' and as 'low': send it once"):
        head.param("priority")
    assert head.params("outputs") == ["a", "b"]
    assert head.param("wait") == "1"
    assert head.param("id") is None
