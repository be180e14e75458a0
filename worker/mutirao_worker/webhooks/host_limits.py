"""How many deliveries may be on their way to one host: a dead or slow receiver must not take the threads of the others."""

from __future__ import annotations

import threading

import msgspec

# On their way to a host that answers; and to one that does not, or was never heard of, which first has to show that it does.
PER_HOST = 8
PER_STRANGER = 1
# A host that did not answer is left alone for so long at first, and twice as long each time up to the longest.
FIRST_S = 1.0
LONGEST_S = 60.0
# What finds its lane full comes again in turn, at the pace at which the lane moves, but not later than this.
PARKED_S = 600.0
QUICK_S = 0.02
CROWDED_S = 1.0
REMEMBERED = 10_000


class HostState(msgspec.Struct):
    """One host.

    Attributes:
        running: how many deliveries are on their way.
        began_at: since when some are.
        took_s: how long they take.
        answers: whether it answered when it was last called.
        failures: how often in a row it did not.
        opens_at: when it may be called again.
        turn_at: when the last of those comes again that found the lane full.
    """

    running: int = 0
    began_at: float = 0.0
    took_s: float = QUICK_S
    answers: bool = False
    failures: int = 0
    opens_at: float = 0.0
    turn_at: float = 0.0

    @property
    def width(self) -> int:
        """How many may be on their way."""
        return PER_HOST if self.answers else PER_STRANGER

    @property
    def strange(self) -> int:
        """How many are on their way though the host has not shown that it answers."""
        return 0 if self.answers else self.running

    def turn_s(self, now: float, least_s: float) -> float:
        """Say after how many seconds one more should come again: those that wait must not all come at once, and in vain."""
        took_s = max(self.took_s, now - self.began_at if self.running else 0.0)
        self.turn_at = max(self.turn_at, self.opens_at, now) + max(took_s / self.width, least_s)
        self.turn_at = min(self.turn_at, now + PARKED_S)
        return self.turn_at - now


class HostLimiter:
    """The hosts of one process. Times are those of any one clock, and are given; threads may share it.

    Args:
        threads: how many deliveries may run at all. Hosts that have not answered share half of them.
    """

    def __init__(self, threads: int) -> None:
        self._lanes: dict[str, HostState] = {}
        self._lock = threading.Lock()
        self._threads = threads
        self._strange = 0  # on their way to hosts that have not answered

    def enter(self, host: str, now: float) -> float:
        """Let a delivery go (0.0), or say after how many seconds it should come again."""
        with self._lock:
            lane = self._lane(host)
            if now < lane.opens_at or lane.running >= lane.width:
                return lane.turn_s(now, 0.0)
            if not lane.answers and self._strange >= self._threads // 2:
                return lane.turn_s(now, CROWDED_S)
            lane.began_at = lane.began_at if lane.running else now
            lane.running += 1
            self._strange += not lane.answers
            return 0.0

    def leave(self, host: str, now: float, took_s: float, *, answered: bool) -> None:
        """Note that a delivery came back, how long it took, and whether the host answered at all, whatever it said."""
        with self._lock:
            lane = self._lane(host)
            before = lane.strange
            lane.running -= 1
            lane.began_at, lane.took_s = now, (lane.took_s + took_s) / 2
            if answered:
                lane.turn_at = lane.turn_at if lane.answers else now
                lane.answers, lane.failures, lane.opens_at = True, 0, 0.0
            else:
                lane.answers, lane.failures = False, lane.failures + 1
                lane.opens_at = now + min(FIRST_S * 2.0 ** min(lane.failures - 1, 10), LONGEST_S)
            self._strange += lane.strange - before

    def _lane(self, host: str) -> HostState:
        lane = self._lanes.pop(host, None) or HostState()
        self._lanes[host] = lane  # last: the first are those that were not asked for longest
        if len(self._lanes) > REMEMBERED:
            for name in [name for name, each in self._lanes.items() if not each.running][: REMEMBERED // 10]:
                del self._lanes[name]
        return lane
