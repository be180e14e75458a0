"""How long a batch of a model takes, by its rows: fitted to live timings."""

from __future__ import annotations

import math

# A batch is at most this many times as large as any that was timed: a line through a few small ones says little of a large one.
GROWTH = 4
# A batch whose time is off the prediction by this factor says something about the machine, or everything about the model.
OUTLIER_FACTOR = 2 * GROWTH
# What a timing counts, as a share of the one after it: for how long a batch takes now, and for what its rows cost of that.
FORGET, REMEMBER = 0.9, 0.998


class Sums:
    """A line through points, by least squares; older ones count less."""

    def __init__(self, forget: float) -> None:
        """Take what a point counts, as a share of the one after it."""
        self._forget = forget
        self.clear()

    def clear(self) -> None:
        """Forget all points."""
        self.weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """Add a point."""
        self.weight = self._forget * self.weight + 1.0
        self._x = self._forget * self._x + x
        self._y = self._forget * self._y + y
        self._xx = self._forget * self._xx + x * x
        self._xy = self._forget * self._xy + x * y

    @property
    def mean(self) -> tuple[float, float]:
        """The point in the middle."""
        return self._x / self.weight, self._y / self.weight

    @property
    def slope(self) -> float | None:
        """How steep the line is: not negative, nor so steep that it would begin below nothing; None where all x are alike."""
        x, y = self.mean
        spread = self._xx / self.weight - x * x
        if spread < 0.01 * x * x:
            return None
        return min(max(0.0, (self._xy / self.weight - x * y) / spread), y / x)


class ServiceTimeModel:
    """Service time of a batch of n rows as a·n + b, fitted to live timings by least squares; older ones count less.

    One outlier is ignored: a process that was held up says nothing of the model. The second one in a row that is far
    off in the same direction is believed, and all before it forgotten.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._near, self._far = Sums(FORGET), Sums(REMEMBER)
        self._slope: float | None = None
        self._largest = self._outlier_sign = 0

    @property
    def has_data(self) -> bool:
        """Whether any batch has been timed."""
        return self._near.weight > 0

    @property
    def coefficients(self) -> tuple[float, float]:
        """The seconds that a row costs, and those that a batch costs besides. From one size alone all of it is put on the rows."""
        if not self.has_data:
            return 0.0, 0.0
        (n, s), per_row = self._near.mean, self._near.slope
        return (s / n, 0.0) if per_row is None else (per_row, s - per_row * n)

    def observe(self, rows: int, seconds: float, waited_s: float = 0.0) -> None:
        """Learn from a batch; for part of its time it may have waited for a core."""
        predicted, before = self.seconds(rows), self._outlier_sign
        self._outlier_sign = (
            (seconds > OUTLIER_FACTOR * predicted) - (OUTLIER_FACTOR * seconds < predicted) if self.has_data else 0
        )
        if self._outlier_sign and self._outlier_sign != before:
            return
        if self._outlier_sign:
            self._near.clear()
            self._far.clear()
            self._slope = None
        self._largest = max(self._largest, rows)
        self._near.add(rows, seconds)
        self._far.add(rows, max(0.0, seconds - waited_s))
        if (slope := self._far.slope) is not None:
            self._slope = slope

    def mostly_fixed(self, rows: int) -> bool:
        """Whether rows cost less than the batch that they are in.

        This goes by many batches, and by what they took on a core of their own: how large batches are, and how long they take, both
        go up with the load, so that rows seem to cost what the load does.
        """
        if self._slope is None:
            return False
        n, s = self._far.mean
        return self._slope * rows < s - self._slope * n

    @property
    def mean_rows(self) -> float:
        """The mean rows of the batches that were timed, the latest counting most; 0 where there is none."""
        return self._near.mean[0] if self.has_data else 0.0

    def seconds(self, rows: int) -> float:
        """Predict how long a batch takes; 0 where nothing is known."""
        per_row, per_batch = self.coefficients
        return per_row * rows + per_batch

    def speed(self, most: int, within_s: float) -> float:
        """Predict the rows a second of batches as large as they may be; 0 where nothing is known.

        Batches that were small of late, since little waited, say nothing of large ones: what a row cost before does.

        Args:
            most: the rows that a batch may hold.
            within_s: how long it may take, in seconds.
        """
        per_row, per_batch = self.coefficients
        if self.has_data and self._near.slope is None and self._slope is not None:
            n, s = self._near.mean
            per_row = min(self._slope, s / n)
            per_batch = s - per_row * n
        rows = (within_s - per_batch) / per_row if per_row > 0 else math.inf
        rows = max(1, min(most, GROWTH * self._largest, rows))
        seconds = per_row * rows + per_batch
        return rows / seconds if seconds > 0 else 0.0

    def rows_within(self, seconds: float) -> int:
        """Foretell how many rows a batch of this length holds: at least one, and not many times what was ever timed."""
        per_row, per_batch = self.coefficients
        most = GROWTH * self._largest if self.has_data else 1_000_000_000
        rows = (seconds - per_batch) / per_row if per_row > 0 else math.inf  # also where a row costs next to nothing
        return math.floor(max(1, min(most, rows)))
