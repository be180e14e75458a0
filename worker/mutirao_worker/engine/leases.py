"""What this worker has reserved in Redis: taking it, keeping the lease on it, giving it back."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import math
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import redis

from mutirao import keyspace
from mutirao.settings import Settings
from mutirao_worker.engine.script_client import ScriptCall, ScriptClient, connect

# A call that failed may have run: the tags that it could have given are never given again.
_TAGS_PER_CALL = 1_000_000


class Demand(NamedTuple):
    """How many requests of a queue are wanted: by each free slot, and ahead for slots that are busy; and how many wait here already."""

    cap: int
    ahead: int
    held: int = 0


class Reserved(NamedTuple):
    """What a reserve gave.

    Attributes:
        requests: tag, list key, envelope of each.
        gone: list key, envelope, why of each that had ended already: SUCCESS, FAILURE, REVOKED or expired.
        left: those of the queues that were asked for in which something is left.
        cancelled: how many jobs have ever been cancelled: where this has not changed, none of those taken before has.
        deadline: the earliest one of the requests taken, in seconds since the epoch; infinity for none.
        lapsed: whether the lease had lapsed before, so that all that was held may be another worker's now.
    """

    requests: list[tuple[int, bytes, bytes]]
    gone: list[tuple[bytes, bytes, str]]
    left: set[str]
    lapsed: bool
    cancelled: int
    deadline: float


class Renewal(NamedTuple):
    """What a look at the leases found.

    Attributes:
        lapsed: as in `Reserved`.
        adopted: how many requests of lost workers were put back.
        reserved: how many requests stand under this worker's name.
        given_up: list key, envelope and lost worker of each that had been delivered too often.
    """

    lapsed: bool
    adopted: int
    reserved: int
    given_up: list[tuple[bytes, bytes, str]]


class Leases:
    """The requests that one worker process has reserved, and its lease on them.

    Attributes:
        consumed: the queues that others know to be served here.
        identity: the host's name in Celery, the process, and a word of its own: no other process ever holds by this name.
    """

    def __init__(self, settings: Settings, hostname: str) -> None:
        """Take the settings; nothing is sent yet."""
        self.consumed: set[str] = set()
        self.identity = f"{hostname}#{os.getpid()}.{secrets.token_hex(4)}"
        self.key = keyspace.reserved_key(self.identity)
        self.scripts = ScriptClient(connect(settings.broker_url, settings))
        self._host = hostname
        self._settings = settings
        self._tag = 0
        self._turn = 0  # how many reserves have brought something
        self._leased = False
        self._keep_alive_at = 0.0
        self._ahead_s = 0.0  # of Redis's clock before this machine's monotonic one

    def now(self) -> float:
        """Redis's clock, as far as this worker has seen it: seconds since the epoch."""
        return time.monotonic() + self._ahead_s

    def waiting(self, names: Iterable[str]) -> bool:
        """Return whether anything waits in these queues: one small command."""
        keys = [key for name in names for key in (*keyspace.stock_lists(name), keyspace.tenants_key(name))]
        return bool(keys and self.scripts.client.exists(*keys))

    def reserve_call(
        self, demands: Mapping[str, Demand], free: int, starting: int = 0, *, late: bool = False
    ) -> ScriptCall:
        """Make the call that takes requests, the first queue first; its reply goes to `parse_reserved`.

        Args:
            demands: how many of each queue.
            free: how many slots are free.
            starting: how many more are in a moment.
            late: the call runs at some later moment: only if this worker still has its lease then, and only if something waits.
        """
        args = (
            self.identity, self._settings.lease_s, free, starting, self._tag, self._turn, self._records_flag(),
            math.ceil(self._settings.result_ttl_s), iso_now(), keyspace.KOMBU_SEPARATOR, int(late),
            *(part for name, demand in demands.items() for part in (name, *demand)),
        )  # fmt: skip
        self._tag += _TAGS_PER_CALL
        return "reserve", (keyspace.LEASES, keyspace.SLOTS, self.key), args

    def parse_reserved(self, call: ScriptCall, reply: Sequence[Any]) -> Reserved:
        """Read the reply of a reserve."""
        self._observe_clock(reply[0])
        taken, first_tag = reply[5], call[2][4] + 1
        requests = list(zip(itertools.count(first_tag), taken[::2], taken[1::2], strict=False))
        leased_before, self._leased = self._leased, True
        self._turn += bool(requests)
        return Reserved(
            requests,
            _triples(reply[6]),
            {name.decode() for name in reply[2]},
            leased_before and bool(reply[1]),
            int(reply[3]),
            float(reply[4] or "inf"),
        )

    def renew_and_adopt(self, names: Iterable[str], free: int = 0) -> Renewal:
        """Renew the lease, say what is consumed and how many slots are free, and adopt what lost workers held."""
        names = set(names)
        left, self.consumed = self.consumed - names, names
        args = (
            self.identity, self._settings.lease_s, self._settings.max_deliveries, self._records_flag(),
            math.ceil(self._settings.result_ttl_s), iso_now(), free, len(names), *names, *left,
        )  # fmt: skip
        keys = (keyspace.LEASES, keyspace.SLOTS, keyspace.DEAD, keyspace.DEAD_INDEX)
        now, lapsed, adopted, given_up, reserved = self.scripts.call("renew_and_adopt", keys, args)
        self._observe_clock(now)
        leased_before, self._leased = self._leased, True
        return Renewal(leased_before and bool(lapsed), int(adopted), int(reserved), _triples(given_up))

    def keep_alive(self) -> None:
        """Renew the lease while the loop stands still for a reason; one that has lapsed meanwhile stays so."""
        if time.monotonic() < self._keep_alive_at:
            return
        self._keep_alive_at = time.monotonic() + self._settings.lease_s / 6
        with contextlib.suppress(redis.RedisError):  # the next call that needs Redis fails by itself
            until = self.now() + self._settings.lease_s
            self.scripts.client.zadd(keyspace.LEASES, {self.identity: until}, xx=True, gt=True)

    def requeue(self, tags: Iterable[int], *, all_but: bool = False, refused_by: str = "") -> int:
        """Put requests back to the head of their queues: these, or all but these. Returns how many.

        Args:
            tags: of the requests.
            all_but: all others are given back.
            refused_by: the digest of the copy of their model that refuses them, which is noted in them.
        """
        mode = "all but" if all_but else "these"
        args = (mode, self._host, self._records_flag(), refused_by, *tags)
        return int(self.scripts.call("requeue", (self.key,), args))

    def idle_slots(self, names: Iterable[str]) -> list[int]:
        """Return for each of these queues how many slots of other workers are free while nothing waits in it."""
        args = (self.identity, keyspace.KOMBU_SEPARATOR, *names)
        return [int(slots) for slots in self.scripts.call("idle_slots", (keyspace.LEASES, keyspace.SLOTS), args)]

    def drop(self, fields: Iterable[bytes]) -> None:
        """Forget requests that have been answered elsewhere than in the step that drops them."""
        self.scripts.client.hdel(self.key, *fields)

    def deregister(self) -> None:
        """Take this worker's name off every list: others need not wait for its lease."""
        self.scripts.call("deregister", (keyspace.LEASES, keyspace.SLOTS, self.key), (self.identity, *self.consumed))

    def close(self) -> None:
        """Close the connections."""
        self.scripts.close()

    def _records_flag(self) -> int:
        return 0 if self._settings.separate_results else 1

    def _observe_clock(self, now: bytes) -> None:
        ahead_s = float(now) - time.monotonic()
        behind_s = self._ahead_s - ahead_s
        # A reply that is read late makes Redis's clock look slow, so less is believed slowly; a step of the clock itself at once.
        self._ahead_s = self._ahead_s - behind_s / 100 if 0 < behind_s < 1 else ahead_s


def iso_now() -> str:
    """The time as Celery writes it into records."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def _triples(flat: Sequence[bytes]) -> list[tuple[bytes, bytes, str]]:
    return [(key, envelope, text.decode()) for key, envelope, text in zip(*[iter(flat)] * 3, strict=True)]
