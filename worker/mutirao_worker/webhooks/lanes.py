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
# What finds its lane full comes again after this.
BUSY_S = 0.5
REMEMBERED = 10_000


class Lane(msgspec.Struct):
    """One host.

    Attributes:
        running: how many deliveries are on their way.
        answers: whether it answered when it was last called.
        failures: how often in a row it did not.
        opens_at: when it may be called again.
    """

    running: int = 0
    answers: bool = False
    failures: int = 0
    opens_at: float = 0.0


class Lanes:
    """The hosts of one process. Times are those of any one clock, and are given; threads may share it.

    Args:
        threads: how many deliveries may run at all. Hosts that have not answered share half of them.
    """

    def __init__(self, threads: int) -> None:
        self._lanes: dict[str, Lane] = {}
        self._lock = threading.Lock()
        self._strangers = max(1, threads // 2)

    def enter(self, host: str, now: float) -> float:
        """Let a delivery go (0.0), or say after how many seconds it should come again."""
        with self._lock:
            lane = self._lane(host)
            if now < lane.opens_at:
                return lane.opens_at - now
            if lane.running >= (PER_HOST if lane.answers else PER_STRANGER) or (not lane.answers and self._crowded()):
                return BUSY_S
            lane.running += 1
            return 0.0

    def leave(self, host: str, now: float, *, answered: bool) -> None:
        """Note that a delivery came back, and whether the host answered at all, whatever it said."""
        with self._lock:
            lane = self._lane(host)
            lane.running = max(0, lane.running - 1)
            lane.answers = answered
            lane.failures = 0 if answered else lane.failures + 1
            lane.opens_at = 0.0 if answered else now + min(FIRST_S * 2.0 ** (lane.failures - 1), LONGEST_S)

    def _lane(self, host: str) -> Lane:
        lane = self._lanes.pop(host, None) or Lane()
        self._lanes[host] = lane  # last: the first are those that were not asked for longest
        if len(self._lanes) > REMEMBERED:
            for name in [name for name, each in self._lanes.items() if not each.running][: REMEMBERED // 10]:
                del self._lanes[name]
        return lane

    def _crowded(self) -> bool:
        return sum(lane.running for lane in self._lanes.values() if not lane.answers) >= self._strangers
