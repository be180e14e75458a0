"""What the delivery of webhooks decides: when to try again, whose turn it is, how an event is signed."""

import base64
import datetime
import email.utils
import itertools

import pytest
import standardwebhooks

from mutirao import errors, webhook_policy
from mutirao.wire.messages import JobInfo, JobRecord
from mutirao_worker.webhooks import host_limits, payload, retry_policy
from mutirao_worker.webhooks.host_limits import HostLimiter

NOW = 1_795_459_253.0
SECRETS = ["whsec_" + base64.b64encode(bytes([number] * 32)).decode() for number in (1, 2)]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "delivered"), (202, "delivered"), (299, "delivered"), (301, "undeliverable"), (302, "undeliverable"),
     (308, "undeliverable"), (400, "undeliverable"), (401, "undeliverable"), (404, "undeliverable"), (410, "undeliverable"),
     (408, "retry"), (429, "retry"), (500, "retry"), (502, "retry"), (503, "retry"), (599, "retry")],
)  # fmt: skip
def test_what_a_status_means(status, verdict):
    """2xx ends it; 408, 429 and 5xx are tried again; any other answer, a redirect too, never succeeds."""
    assert retry_policy.decide(status) == verdict


def test_ten_tries_within_the_day_for_which_a_record_is_kept():
    """Waits grow from seconds to hours, apart from each other by chance, and all of them fit into a day at their longest."""
    longest = [retry_policy.delay_s(tries, 1.0) or 0.0 for tries in range(1, retry_policy.TRIES)]
    shortest = [retry_policy.delay_s(tries, 0.0) or 0.0 for tries in range(1, retry_policy.TRIES)]
    assert retry_policy.TRIES == 10
    assert longest[0] == pytest.approx(6)
    assert all(before < after for before, after in itertools.pairwise(longest))
    assert all(low < high for low, high in zip(shortest, longest, strict=True))
    assert sum(longest) + retry_policy.TRIES * 15 < 86_400
    assert retry_policy.delay_s(retry_policy.TRIES, 0.5) is None


@pytest.mark.parametrize(
    ("retry_after_s", "waits_s"), [(0, 5), (2, 5), (300, 300), (1e9, retry_policy.RETRY_AFTER_MAX_S)]
)
def test_a_receiver_may_ask_for_more_patience(retry_after_s, waits_s):
    """Retry-After makes a wait longer, never shorter, and not without bound."""
    assert retry_policy.delay_s(1, 0.5, retry_after_s) == waits_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("", 0), ("120", 120), (" 7 ", 7), ("-5", 0), ("soon", 0), ("9" * 50, 999_999_999), ("\u0661", 0),
     (email.utils.format_datetime(datetime.datetime.fromtimestamp(NOW + 90, datetime.UTC), usegmt=True), 90),
     (email.utils.format_datetime(datetime.datetime.fromtimestamp(NOW - 90, datetime.UTC), usegmt=True), 0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header, seconds):
    """Both forms of Retry-After are read; nonsense counts as none."""
    assert retry_policy.parse_retry_after(header, NOW) == seconds


def record(status="SUCCESS", finished_at=NOW, id="a.job"):
    return JobRecord(status=status, task_id=id, job=JobInfo(webhook="https://x.example", finished_at=finished_at))


def test_an_event_is_the_same_at_each_try():
    """Id and body depend on the job and its end alone; another end of the same job, after a replay, is another event."""
    first, again, later = (payload.build(record(finished_at=at), {}) for at in (NOW, NOW, NOW + 60))
    assert first == again
    assert first.id != later.id
    assert first.id != payload.build(record(id="another.job"), {}).id
    assert "." not in first.id


@pytest.mark.parametrize("secret", [SECRETS[0], " ".join(SECRETS), " ".join(reversed(SECRETS))])
def test_a_receiver_with_either_secret_believes_it(secret):
    """While secrets change, each event is signed with both, so that a receiver with one of them takes it."""
    made = payload.build(record(), {"id": "a.job"})
    now = int(datetime.datetime.now(datetime.UTC).timestamp())
    found = standardwebhooks.Webhook(SECRETS[0]).verify(
        made.body, made.headers(webhook_policy.signing_keys(secret), now)
    )
    assert found["type"] == "job.succeeded"
    assert found["timestamp"] == "2026-11-23T18:40:53.000+00:00"


@pytest.mark.parametrize(
    "secret", ["", " ", "hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_***", SECRETS[0][6:], f"{SECRETS[0]} x"]
)
def test_a_weak_secret_is_refused(secret):
    """What is no secret of 24 to 64 bytes is refused, without being quoted."""
    with pytest.raises(errors.SettingsError, match="MUTIRAO_WEBHOOK_SECRET") as caught:
        webhook_policy.signing_keys(secret)
    assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_a_stranger_goes_alone_until_it_has_answered():
    """One delivery goes to a host that was never heard of; once it has answered, several at a time."""
    made = HostLimiter(64)
    assert made.acquire("a", 0) == 0
    assert made.acquire("a", 0) > 0
    made.release("a", 1, 0.1, responded=True)
    assert [made.acquire("a", 1) == 0 for _ in range(host_limits.PER_HOST + 1)] == [True] * host_limits.PER_HOST + [
        False
    ]


def test_a_host_that_does_not_answer_is_left_alone_for_longer_each_time():
    """After a failure a host rests, twice as long after each further one up to a minute; one answer ends that."""
    made, now, rests = HostLimiter(64), 0.0, []
    for _ in range(9):
        assert made.acquire("a", now) == 0
        made.release("a", now, 5.0, responded=False)
        assert made.acquire("a", now) > 0
        rest = next(s for s in range(1, 1000) if made.acquire("a", now + s) == 0)
        made.release("a", now + rest, 5.0, responded=False)
        rests.append(rest)
        now += 1000
    assert rests[:2] == [1, 4]
    assert rests[-1] == host_limits.LONGEST_PAUSE_S
    assert made.acquire("a", now) == 0
    made.release("a", now, 0.1, responded=True)
    assert made.acquire("a", now) == 0


def test_strangers_share_half_of_the_threads():
    """However many hosts do not answer, the other half of the threads is for those that do."""
    made = HostLimiter(8)
    made.acquire("good", 0)
    made.release("good", 0, 0.1, responded=True)
    assert [made.acquire(f"dead{number}", 0) == 0 for number in range(6)] == [True] * 4 + [False] * 2
    assert all(made.acquire("good", 0) == 0 for _ in range(4))


def test_what_waits_for_a_lane_comes_in_turn():
    """The longer a delivery takes, the further apart come those that wait; none is put off for longer than ten minutes."""
    made = HostLimiter(64)
    made.acquire("slow", 0)
    early = [made.acquire("slow", 0.01) for _ in range(10)]
    late = [made.acquire("slow", 10) for _ in range(1000)]
    assert early == sorted(early)
    assert early[-1] < 1
    assert late[0] >= 10
    assert late[-1] == host_limits.RETRY_MAX_S


def test_hosts_that_were_not_asked_for_long_are_forgotten():
    """The lanes of a process do not grow without bound, and what runs is never forgotten."""
    made = HostLimiter(64)
    assert made.acquire("first", 0) == 0
    for number in range(2 * host_limits.MAX_HOSTS):
        made.acquire(f"host{number}", 0)
    assert len(made._hosts) <= host_limits.MAX_HOSTS + 1
    assert made.acquire("first", 0) > 0
