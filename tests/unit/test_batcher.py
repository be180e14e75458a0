"""The policy of batches: what goes into the next one, when, and how much is taken ahead, with the clock in the test's hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutirao_worker.engine.batcher import AHEAD_S, DEFER_MAX_S, PATIENCE_S, Batcher, isolation_groups
from mutirao_worker.models.manifest import BatchLimits

NUMBERS = itertools.count()


@dataclass
class Asked:
    """What the policy wants to know of a request."""

    model: str = "iris"
    rows: int = 1
    size: int = 100
    priority: int = 0
    received: float = 0.0
    limits: Any = None
    number: int = field(default_factory=lambda: next(NUMBERS))


def batcher(**limits: Any) -> Batcher:
    return Batcher(lambda _: BatchLimits(**limits))


def timed(policy: Batcher, model: str = "iris", *, per_row_s: float = 0.001, per_batch_s: float = 0.001) -> Batcher:
    """Have a model's times known."""
    for rows in (1, 64, 1, 64):
        policy.queue(model).service_time.observe(rows, per_row_s * rows + per_batch_s)
    return policy


def filled(policy: Batcher, *requests: Asked) -> Batcher:
    for request in requests:
        policy.add(request)
    return policy


def drained(policy: Batcher, *, now: float = 0.0, free: int = 1, slots: int = 1) -> list[list[Asked]]:
    return list(iter(lambda: policy.next(now, free, slots), []))


REQUESTS = st.lists(
    st.builds(
        Asked,
        model=st.sampled_from(["iris", "forest"]),
        rows=st.integers(1, 40),
        size=st.integers(1, 400),
        priority=st.sampled_from([0, 3, 6, 9]),
        received=st.floats(0, 3),
        limits=st.sampled_from([None, None, None, (1.0, None)]),
    ),
    max_size=60,
)


@given(REQUESTS, st.integers(1, 4), st.integers(0, 3), st.floats(0.0, 5.0), st.booleans())
def test_conserves_work(requests, slots, busy, now, known):
    """While somebody waits a free slot gets a batch; each request goes once and whole, in a batch of its own model."""
    policy = batcher(max_rows=32, max_bytes=1000)
    for model in ("iris", "forest") if known else ():
        timed(policy, model)
    filled(policy, *requests)
    batches = drained(policy, now=now, free=max(1, slots - busy), slots=slots)
    assert sorted(one.number for batch in batches for one in batch) == sorted(one.number for one in requests)
    assert all(len({one.model for one in batch}) == 1 for batch in batches)
    assert not any(policy.queues.values())
    assert all((line.count, line.rows, line.size) == (0, 0, 0) for line in policy.queues.values())


@given(REQUESTS, st.integers(1, 4), st.booleans())
def test_keeps_the_limits(requests, free, known):
    """Several requests never exceed the most rows or bytes; one that is larger goes alone, and so does one with a time limit of its own."""
    policy = batcher(max_rows=32, max_bytes=1000)
    for model in ("iris", "forest") if known else ():
        timed(policy, model)
    for batch in drained(filled(policy, *requests), free=free, slots=free):
        if len(batch) > 1:
            assert sum(one.rows for one in batch) <= 32
            assert sum(one.size for one in batch) <= 1000
            assert not any(one.limits for one in batch)


@given(REQUESTS, st.integers(1, 4))
def test_keeps_the_order_within_a_priority(requests, free):
    """Requests of one model and priority run in the order in which they came."""
    policy = filled(batcher(max_rows=32), *sorted(requests, key=lambda one: one.received))
    order = [one for batch in drained(policy, free=free) for one in batch]
    for kind in {(one.model, one.priority) for one in requests}:
        numbers = [one.received for one in order if (one.model, one.priority) == kind]
        assert numbers == sorted(numbers)


def test_urgent_first():
    """The highest priority that waits goes first, whatever came before it."""
    policy = filled(batcher(max_rows=2), *(Asked(priority=step) for step in (6, 3, 0, 6, 3, 0)))
    assert [[one.priority for one in batch] for batch in drained(policy, now=0.5)] == [[0, 0], [3, 3], [6, 6]]


def test_nobody_starves():
    """One of a low priority that has waited for longer than the patience goes before new ones of a high priority."""
    policy = filled(batcher(max_rows=2), Asked(priority=6, received=0.0))
    now, served = 0.0, list[str]()
    while not served and now < 10:
        policy.add(Asked(priority=0, received=now))
        policy.add(Asked(priority=0, received=now))
        served = [one for one in policy.next(now, 1, 1) if one.priority == 6]
        now += 0.1
    assert served
    assert PATIENCE_S <= now <= PATIENCE_S + 0.5


def test_a_group_that_runs_again_does_not_starve():
    """What runs again after a process died gets its turn, though another model always has somebody waiting."""
    policy = batcher()
    policy.add_isolated("forest", [[Asked("forest")]])
    for turn in range(5):
        policy.add(Asked("iris", received=float(turn)))
        if policy.next(float(turn), 1, 1)[0].model == "forest":
            return
    pytest.fail("the other model was served first each time")


def test_what_could_run_elsewhere():
    """All that wait can be taken out for others to run, but for those that are to stay apart from each other."""
    policy = filled(batcher(), Asked(received=1.0), Asked(received=2.0, priority=3))
    again = [Asked(received=0.0)]
    policy.add_isolated("iris", [again])
    line = policy.queue("iris")
    assert (line.waits_since(1.0), line.waits_since(1.1)) == (False, True)
    assert [one.received for one in line.take_movable()] == [1.0, 2.0]
    assert (line.count, line.rows, line.size, list(line)) == (0, 0, 0, again)
    assert not line.waits_since(9.0)


def test_waits_for_others_from_the_first():
    """With a wait set, nothing goes until the first has waited that long; then all go that are there."""
    policy = filled(batcher(max_wait_s=0.1), Asked(received=0.0))
    assert policy.next(0.05, 1, 1) == []
    assert policy.wake_at(0.05) == pytest.approx(0.1)
    timed(policy)
    policy.add(Asked(received=0.09))
    assert policy.next(0.099, 1, 1) == []
    assert len(policy.next(0.1, 1, 1)) == 2
    assert policy.wake_at(0.1) is None


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        ({"max_rows": 4}, [Asked(rows=2), Asked(rows=2)]),
        ({"max_bytes": 200}, [Asked(size=100), Asked(size=100)]),
        ({"latency_s": 0.0051}, [Asked(rows=2), Asked(rows=2)]),
        ({}, [Asked(limits=(1.0, None))]),
    ],
    ids=["rows", "bytes", "latency target", "a time limit of its own"],
)
def test_does_not_wait_for_nobody(limits, asked):
    """A batch that can hold no more goes before its wait is over: it is waiting for nobody."""
    policy = filled(timed(batcher(max_wait_s=10.0, **limits)), *asked)
    assert policy.next(0.0, 1, 1) == asked


@pytest.mark.parametrize(
    ("latency_s", "rows"), [(0.011, 10), (0.0505, 49), (0.0005, 1), (10.0, 100)], ids=str
)  # 1 ms a row and 1 ms a batch
def test_latency_target(latency_s, rows):
    """A batch holds as many rows as the fitted times allow within the target: at least one, at most the maximum."""
    policy = timed(batcher(max_rows=100, latency_s=latency_s))
    filled(policy, *(Asked() for _ in range(200)))
    assert len(policy.next(0.0, 1, 1)) == rows


def test_no_batch_lasts_much_longer_than_the_look_ahead():
    """A dear model's batch is cut to about a second of work, so that a burst stays where others can take it."""
    policy = filled(timed(batcher(), per_row_s=0.1, per_batch_s=0.0), *(Asked() for _ in range(100)))
    assert len(policy.next(0.0, 1, 1)) == pytest.approx(AHEAD_S / 0.1, abs=1)


def short_of_cores(
    policy: Batcher, model: str = "iris", *, per_row_s: float = 0.00005, per_batch_s: float = 0.01
) -> Batcher:
    """Have a model's times known, and its processes wait for cores for a tenth of them; one batch runs."""
    for rows in (1, 4, 16, 64):
        seconds = per_row_s * rows + per_batch_s
        policy.observe(model, rows, seconds / 0.9, seconds / 9)
    policy.queue(model).running = 1
    return policy


def test_a_second_batch_grows_where_cores_are_short():
    """Rows that cost less than their batch wait for the one that runs, if processes wait for cores; then all go at once."""
    policy = filled(short_of_cores(batcher()), *(Asked() for _ in range(64)))
    assert policy.next(0.0, 1, 2) == []
    policy.queue("iris").running = 0
    assert len(policy.next(0.0, 2, 2)) == 64


@pytest.mark.parametrize(
    ("times", "rows", "limits"),
    [
        ({"per_row_s": 0.001}, 64, {}),
        ({"per_batch_s": DEFER_MAX_S}, 64, {}),
        ({}, 256, {}),
        ({}, 64, {"max_rows": 64}),
    ],
    ids=["rows that cost more than their batch", "a batch that takes long", "many rows", "a full batch"],
)
def test_a_slot_is_used_where_it_pays(times, rows, limits):
    """A free slot gets what would gain little from waiting, or wait for long, however short cores are."""
    policy = filled(short_of_cores(batcher(**limits), **times), *(Asked() for _ in range(rows)))
    assert policy.next(0.0, 1, 2)


def test_nobody_looks_again_at_what_grows():
    """What waits for another batch's end is not woken for by time as well, though its own time to wait is over."""
    policy = filled(short_of_cores(batcher(max_wait_s=0.01)), *(Asked() for _ in range(8)))
    assert policy.next(1.0, 1, 2) == []
    assert policy.wake_at(1.0) is None
    policy.queue("iris").running = 0
    assert policy.wake_at(1.0) == 1.0
    assert len(policy.next(1.0, 2, 2)) == 8


def test_a_slot_is_used_while_there_are_cores():
    """A second batch runs beside the first at once, whatever its rows cost, once processes wait for cores no more."""
    policy = filled(short_of_cores(batcher()), *(Asked() for _ in range(8)))
    assert policy.next(0.0, 1, 2) == []
    for _ in range(20):
        policy.observe("iris", 8, 0.0104, 0.0)
    assert len(policy.next(0.0, 1, 2)) == 8


def test_others_run_where_cores_are_short():
    """A model of which nothing runs does not wait for another's batch, nor do groups that are to stay apart."""
    policy = filled(short_of_cores(batcher()), *(Asked() for _ in range(8)), Asked("forest"))
    assert [one.model for one in policy.next(0.0, 1, 2)] == ["forest"]
    policy.add_isolated("iris", [[Asked()], [Asked()]])
    assert len(policy.next(0.0, 1, 2)) == 1


def test_a_slow_model_has_its_share():
    """While both wait, a slow model never holds more slots than its share, and a fast one finds a slot whenever one of its own ends."""
    policy, slots = batcher(max_rows=1), 4
    for model in ("slow", "fast"):
        filled(policy, *(Asked(model, received=0.0 if model == "slow" else 1.0) for _ in range(50)))
    running: list[str] = []
    for _ in range(slots):
        (one,) = policy.next(2.0, 1, slots)
        running.append(one.model)
        policy.queue(one.model).running += 1
    assert sorted(running) == ["fast", "fast", "slow", "slow"]
    for _ in range(20):  # only the fast one's batches end
        policy.queue("fast").running -= 1
        (one,) = policy.next(2.0, 1, slots)
        assert one.model == "fast"
        policy.queue("fast").running += 1


def test_a_model_alone_has_all_slots():
    """The share binds only while others wait or run: a model alone gets every slot."""
    policy = filled(batcher(max_rows=1), *(Asked("slow") for _ in range(5)))
    for _ in range(4):
        assert policy.next(0.0, 1, 4)
        policy.queue("slow").running += 1


@pytest.mark.parametrize(
    ("per_row_s", "count", "free", "sizes"),
    [
        (0.01, 64, 4, [16, 16, 16, 16]),
        (0.01, 3, 4, [1, 1, 1]),
        (0.00001, 64, 4, [64]),
        (0.01, 64, 1, [64]),
    ],
    ids=["shared", "few", "too cheap to share", "one slot"],
)
def test_splits_over_free_slots(per_row_s, count, free, sizes):
    """What waits is shared over the free slots where that saves more than it costs."""
    policy = filled(timed(batcher(), per_row_s=per_row_s, per_batch_s=0.0), *(Asked() for _ in range(count)))
    found = list[int]()
    while batch := policy.next(0.0, max(1, free - len(found)), 4):
        found.append(len(batch))
    assert found == sizes


def test_rows_of_a_request_stay_together():
    """A request of many rows goes whole, with neighbours only as far as the maximum allows."""
    policy = filled(batcher(max_rows=10), *(Asked(rows=rows) for rows in (6, 4, 6, 25, 1)))
    assert [[one.rows for one in batch] for batch in drained(policy)] == [[6, 4], [6], [25], [1]]


@given(
    st.floats(1e-5, 5.0),
    st.floats(0.0, 1.0),
    st.integers(1, 8),
    st.integers(0, 50),
    st.integers(1, 20),
    st.booleans(),
)
def test_takes_no_more_than_a_second_ahead(per_row, per_batch, slots, waiting, rows, runs):
    """What is taken for busy slots is work for about a second of the whole pool, or else one request where none is there."""
    policy = timed(batcher(), per_row_s=per_row, per_batch_s=per_batch)
    filled(policy, *(Asked(rows=rows) for _ in range(waiting)))
    policy.queue("iris").running = int(runs)
    cap, ahead = policy.room("iris", 0, slots)
    assert cap >= 0
    assert ahead >= 0
    if ahead <= 1:
        return
    line = policy.queue("iris")
    most = max(1, line.service_time.rows_within(AHEAD_S))
    held = waiting * rows + ahead * line.rows_per_request
    work = line.service_time.seconds(most) * max(1, math.ceil(held / most))
    assert work <= slots * AHEAD_S * 1.2 + line.service_time.seconds(most)


@pytest.mark.parametrize("known", [False, True], ids=["never timed", "too slow for a second"])
def test_a_model_with_no_slot_gets_one_ahead(known):
    """Of a model that neither waits nor runs here one request is wanted even while all slots are busy: others must not keep it out."""
    policy = batcher()
    if known:
        timed(policy, per_row_s=5.0)
    assert policy.room("iris", 0, 2)[1] == 1
    policy.add(Asked())
    assert policy.room("iris", 0, 2)[1] == 0


def test_a_model_that_nobody_timed_is_tried_one_at_a_time():
    """Of a model without timings each free slot gets one request: the others may be quicker elsewhere."""
    policy = batcher()
    assert policy.room("iris", 0, 4)[0] == 1
    policy.queue("iris").running = 1
    assert policy.room("iris", 0, 4) == (1, 0)


@given(st.integers(1, 300), st.integers(1, 5), st.data())
def test_pieces_find_the_one_that_kills(count, runs, data):
    """Split and split again, the request that ends its process stands alone in its last run, and is run no more often than allowed."""
    batch: list[Any] = list(range(count))
    killer = data.draw(st.integers(0, count - 1))
    groups, left = [batch], runs
    for run in range(1, runs + 1):
        (group,) = (each for each in groups if killer in each)
        left = runs - run
        if run == runs:
            assert count == 1 or runs == 1 or group == [killer]
            return
        groups = isolation_groups(group, left)
        assert [one for each in groups for one in each] == group
    pytest.fail("it ran more often than allowed")


@pytest.mark.parametrize(("count", "runs_left", "groups"), [(256, 2, 16), (256, 1, 256), (1, 3, 1), (1000, 3, 10)])
def test_pieces_are_few(count, runs_left, groups):
    """As few groups as find one killer in the runs that are left: 256 requests are 16 of 16, then 16 alone."""
    assert len(isolation_groups(list(range(count)), runs_left)) == pytest.approx(groups, abs=1)
