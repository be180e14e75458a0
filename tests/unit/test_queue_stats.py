"""How much is before a request and how long it takes: plain arithmetic of what waits."""

import pytest

from mutirao import queue_stats
from mutirao.queue_stats import QueueCounts, QueueDepth, QueuePosition

WAITING = [
    QueueDepth("iris", "", 5, 50, 1.0, (2, 10, 38, 0)),
    QueueDepth("iris", "crm", 2, 20, None),
    QueueDepth("iris", "web", 100, 1000, 3.0),
]


@pytest.mark.parametrize(
    ("number", "line", "speed", "place"),
    [
        pytest.param(7, QueueCounts(7, 3, 3, 0, 0), 10.0, QueuePosition(0, 0, 0.0), id="the next one"),
        pytest.param(
            9, QueueCounts(7, 4, 8, 0, 0), 10.0, QueuePosition(2, 0, 0.4), id="two before it, of two rows each"
        ),
        pytest.param(
            9, QueueCounts(7, 4, 8, 0, 0), 0.0, QueuePosition(2, 0, None), id="nobody has said how quick it is"
        ),
        pytest.param(
            5, QueueCounts(7, 4, 4, 0, 0), 10.0, QueuePosition(0, 0, 0.0), id="given back to the head of the line"
        ),
        pytest.param(5, QueueCounts(7, 0, 0, 2, 2), 10.0, QueuePosition(0, 2, 0.2), id="taken meanwhile"),
        pytest.param(
            99,
            QueueCounts(7, 4, 4, 0, 0),
            10.0,
            QueuePosition(3, 0, 0.3),
            id="a stock program took what was not counted",
        ),
        pytest.param(
            9, QueueCounts(7, 4, 4, 3, 6), 10.0, QueuePosition(2, 3, 0.8), id="three more urgent, of two rows each"
        ),
        pytest.param(
            9,
            QueueCounts(7, 4, 4, 0, 0, 2, (1, 500)),
            1.0,
            QueuePosition(2, 0, 2 + 1 + 2 + 2 * 2),
            id="five lines take turns",
        ),
    ],
)
def test_place(number, line, speed, place):
    """A place is what was not taken before it; its wait is those rows and those of the lines that take turns with its own."""
    assert queue_stats.position_from(number, line, speed) == place


@pytest.mark.parametrize(
    ("tenant", "priority", "speed", "wait_s"),
    [
        ("crm", "normal", 10.0, (20 + 20 + 20) / 10),
        ("", "low", 10.0, (50 + 20 + 50) / 10),
        ("", "normal", 10.0, (12 + 12 + 12) / 10),
        ("", "high", 10.0, (2 + 2 + 2) / 10),
        ("new", "normal", 10.0, 0.0),
        ("crm", "normal", 0.0, None),
    ],
)
def test_wait_of_one_who_joins_now(tenant, priority, speed, wait_s):
    """Who joins waits for what is as urgent or more so in the tenant's own line, and for no more than that of each other tenant's."""
    assert queue_stats.wait_s(WAITING, tenant, priority, speed) == wait_s


@pytest.mark.parametrize(("rows", "speed", "seconds"), [(0, 10.0, 0.0), (50, 10.0, 5.0), (50, 0.0, None)])
def test_drain(rows, speed, seconds):
    """Rows over rows a second; nothing is foretold where the speed is not known."""
    assert queue_stats.drain_s(rows, speed) == seconds


@pytest.mark.parametrize(
    ("heads", "oldest_s"),
    [
        ([], None),
        ([b"990.5", b"a", b"970.0", b"b"], 30.0),
        ([b"", b"of-a-stock-client"], None),
        ([b"", b"\xff", b"999.0", b"a"], 1.0),
        ([b"1003.0", b"a"], 0.0),
        ([b"", b"00000000-03e8-7000-8000-000000000000"], 999.0),
    ],
    ids=["nothing waits", "the oldest of two", "nobody says", "one says", "clocks differ", "the id says"],
)
def test_oldest(heads, oldest_s):
    """The oldest is the longest wait of those that records or ids tell."""
    assert queue_stats.oldest_s(heads, 1000.0) == oldest_s
