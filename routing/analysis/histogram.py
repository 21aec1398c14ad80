"""Latencies counted in cells whose edges grow by a fourth root of two (19 %)."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import ceil
from typing import Protocol

LOWEST_S = 1e-4
CELLS_PER_OCTAVE = 4
# Upper edges of all cells but the last, which has none: 0.1 ms to 353 s.
EDGES_S = tuple(LOWEST_S * 2 ** (step / CELLS_PER_OCTAVE) for step in range(88))
CELLS = len(EDGES_S) + 1


class Cells(Protocol):
    """Counts by index."""

    def __getitem__(self, index: int, /) -> int:
        """The count of one cell."""

    def __setitem__(self, index: int, count: int, /) -> None:
        """Set it."""


def count_sorted(values: list[float], edges: Sequence[float], cells: Cells) -> None:
    """Add values to cells: cell ``i`` takes those above edge ``i - 1`` and up to edge ``i``, one more the rest.

    Puts ``values`` in order; for many values this costs a fraction of a bisect and an increment each.
    """
    values.sort()
    count, at = len(values), 0
    while at < count:
        cell = bisect_left(edges, values[at])
        end = bisect_right(values, edges[cell], at) if cell < len(edges) else count
        cells[cell] += end - at
        at = end


class Histogram:
    """Counts of latencies. Mutable; not shared between threads. Histograms merge by addition, in any order."""

    def __init__(self, counts: Sequence[int] | None = None, sum_s: float = 0.0) -> None:
        if counts is not None and (len(counts) != CELLS or min(counts) < 0):
            raise ValueError(f"a histogram has {CELLS} counts of 0 or more")
        self._counts = [0] * CELLS if counts is None else list(counts)
        self.sum_s = sum_s

    def observe(self, latency_s: float) -> None:
        """Count one latency; cell ``i`` holds those above edge ``i - 1`` and up to edge ``i``."""
        self._counts[bisect_left(EDGES_S, latency_s)] += 1
        self.sum_s += latency_s

    def observe_all(self, latencies_s: list[float]) -> None:
        """Count many at once; ``latencies_s`` is put in order."""
        count_sorted(latencies_s, EDGES_S, self._counts)
        self.sum_s += sum(latencies_s)

    def add(self, other: "Histogram") -> None:
        """Add the counts of another histogram."""
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]
        self.sum_s += other.sum_s

    @property
    def count(self) -> int:
        """How many latencies were counted."""
        return sum(self._counts)

    def quantile(self, q: float) -> float | None:
        """Upper edge of the cell that holds the quantile, in seconds: never below it, at most 19 % above.

        Args:
            q: 0 to 1.

        Returns:
            ``None`` when nothing was counted; infinity when the quantile lies beyond the last edge.
        """
        count = self.count
        if not count:
            return None
        rank = max(1, ceil(q * count))
        seen = 0
        for edge_s, cell in zip(EDGES_S, self._counts, strict=False):
            seen += cell
            if seen >= rank:
                return edge_s
        return float("inf")

    def as_counts(self) -> tuple[int, ...]:
        """Counts of all ``CELLS`` cells, the last one without an upper edge."""
        return tuple(self._counts)
