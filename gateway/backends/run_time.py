"""How long a version's runs take lately, to decide between the loop and a thread."""

from bisect import insort
from collections import deque

WINDOW_RUNS = 64
INLINE_LIMIT_S = 0.001  # what one run may take of the loop's time


class RunTime:
    """Moving 90th percentile of run times, whole and per row, over the last ``WINDOW_RUNS`` runs."""

    __slots__ = ("_per_row", "_recent", "_whole")

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque()
        self._whole: list[float] = []
        self._per_row: list[float] = []

    def observe(self, run_s: float, rows: int) -> None:
        """Take in one run over ``rows`` rows."""
        row_s = run_s / max(rows, 1)
        if len(self._recent) == WINDOW_RUNS:
            old_run_s, old_row_s = self._recent.popleft()
            self._whole.remove(old_run_s)
            self._per_row.remove(old_row_s)
        self._recent.append((run_s, row_s))
        insort(self._whole, run_s)
        insort(self._per_row, row_s)

    def is_short(self, rows: int) -> bool:
        """Whether a run over ``rows`` rows may be expected to stay below ``INLINE_LIMIT_S``.

        Until a run was seen the answer is no. Per row the smallest lately seen is used, since one row's cost is
        mostly that of the call.
        """
        if not self._whole:
            return False
        p90 = self._whole[(len(self._whole) * 9) // 10 if len(self._whole) > 9 else -1]
        return p90 < INLINE_LIMIT_S and rows * self._per_row[0] < INLINE_LIMIT_S
