"""How many deliveries run to one host at a time: a dead or slow receiver must not take the threads of the others."""

from __future__ import annotations

import threading

import msgspec

PER_HOST = 8
# To a host that did not respond when it was last called, or that was never called: it has to prove first that it does.
PER_UNPROVEN_HOST = 1
# A host that did not respond is paused for this long, and twice as long each time up to the longest.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# A delivery that finds its host busy is retried in turn, at the pace at which the host answers, but not later than this.
RETRY_MAX_S = 600.0
INITIAL_DURATION_S = 0.02
CROWDED_RETRY_S = 1.0
MAX_HOSTS = 10_000


class HostState(msgspec.Struct):
    """One host.

    Attributes:
        running: how many deliveries run.
        busy_since: since when at least one does.
        duration_s: how long a delivery takes, averaged.
        responsive: whether it responded when it was last called.
        failures: how often in a row it did not.
        paused_until: when it may be called again.
        last_retry_at: when the last of the deliveries that found it busy is retried.
    """

    running: int = 0
    busy_since: float = 0.0
    duration_s: float = INITIAL_DURATION_S
    responsive: bool = False
    failures: int = 0
    paused_until: float = 0.0
    last_retry_at: float = 0.0

    @property
    def limit(self) -> int:
        """How many deliveries may run."""
        return PER_HOST if self.responsive else PER_UNPROVEN_HOST

    @property
    def unproven(self) -> int:
        """How many deliveries run though the host has not proved that it responds."""
        return 0 if self.responsive else self.running

    def next_retry_s(self, now: float, min_s: float) -> float:
        """Return after how many seconds one more is to be retried: those that wait must not all come at once, and in vain."""
        duration_s = max(self.duration_s, now - self.busy_since if self.running else 0.0)
        self.last_retry_at = max(self.last_retry_at, self.paused_until, now) + max(duration_s / self.limit, min_s)
        self.last_retry_at = min(self.last_retry_at, now + RETRY_MAX_S)
        return self.last_retry_at - now


class HostLimiter:
    """A bulkhead and a circuit breaker for each host. Times are those of any one clock, and are passed in; threads may share it.

    Args:
        threads: how many deliveries may run at all. Hosts that have not responded share half of them.
    """

    def __init__(self, threads: int) -> None:
        self._hosts: dict[str, HostState] = {}
        self._lock = threading.Lock()
        self._threads = threads
        self._unproven = 0  # deliveries to hosts that have not responded

    def acquire(self, host: str, now: float) -> float:
        """Admit a delivery (0.0), or return after how many seconds it is to be retried."""
        with self._lock:
            state = self._state(host)
            if now < state.paused_until or state.running >= state.limit:
                return state.next_retry_s(now, 0.0)
            if not state.responsive and self._unproven >= self._threads // 2:
                return state.next_retry_s(now, CROWDED_RETRY_S)
            state.busy_since = state.busy_since if state.running else now
            state.running += 1
            self._unproven += not state.responsive
            return 0.0

    def release(self, host: str, now: float, duration_s: float, *, responded: bool) -> None:
        """Record that a delivery has ended, how long it took, and whether the host responded at all, whatever the status."""
        with self._lock:
            state = self._state(host)
            before = state.unproven
            state.running -= 1
            state.busy_since, state.duration_s = now, (state.duration_s + duration_s) / 2
            if responded:
                state.last_retry_at = state.last_retry_at if state.responsive else now
                state.responsive, state.failures, state.paused_until = True, 0, 0.0
            else:
                state.responsive, state.failures = False, state.failures + 1
                state.paused_until = now + min(FIRST_PAUSE_S * 2.0 ** min(state.failures - 1, 10), LONGEST_PAUSE_S)
            self._unproven += state.unproven - before

    def _state(self, host: str) -> HostState:
        state = self._hosts.pop(host, None) or HostState()
        self._hosts[host] = state  # last: the first are those that were not called for longest
        if len(self._hosts) > MAX_HOSTS:
            for name in [name for name, each in self._hosts.items() if not each.running][: MAX_HOSTS // 10]:
                del self._hosts[name]
        return state
