"""How long a version's runs take lately: whether they may be on the loop, and how many rows one run should have."""

from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median

WINDOW_RUNS = 64
INLINE_LIMIT_S = 0.001  # what one run may take of the loop's time
BACK_SHARE = 0.5  # of the limit: runs that left the loop come back once they are below this
PATIENCE_RUNS = 16  # on the thread, before runs come back that look long there and may only wait for the loop
PATIENCE_MAX_RUNS = 1 << 16  # it doubles each time
THREAD_LIMIT_S = 0.1  # what one run of several requests may be expected to take on the version's thread
MAX_BATCH_ROWS = 512
NEAR_BEST = 0.92  # of the best rows a second is good enough for a smaller batch, which answers sooner
RUNS_KEPT = 48  # of each size
TRIES = 3  # of a size before it is judged: one run says little
REVIEW_EVERY = 8  # runs between two decisions
EXPLORE_EVERY = 32  # batches between two that try the next larger size; half-way the next smaller one is tried


class RunTime:
    """Run times over the last ``WINDOW_RUNS`` runs, and by size: 1, 2, 4, 8 … rows at most. Used by one thread.

    Attributes:
        inline_rows: Most rows of a run on the loop; 0 when even one row takes too long, or before any run was seen.
        batch_rows: Most rows of a run of several requests on the thread: the fewest that are near the best throughput.
        turn_rows: The same on the loop, where all of them wait for the same turn: the most.
    """

    __slots__ = (
        "_away",
        "_batches",
        "_patience",
        "_recent",
        "_row_s",
        "_runs",
        "batch_rows",
        "inline_rows",
        "turn_rows",
    )

    def __init__(self) -> None:
        self._recent: deque[tuple[int, float]] = deque(maxlen=WINDOW_RUNS)
        self._row_s: dict[int, deque[float]] = {}
        self._runs = self._batches = self._away = 0
        self._patience = PATIENCE_RUNS
        self.inline_rows = 0
        self.batch_rows = self.turn_rows = 1

    def observe(self, run_s: float, rows: int) -> None:
        """Take in one run over ``rows`` rows."""
        rows = max(rows, 1)
        size = (rows - 1).bit_length()
        self._recent.append((size, run_s))
        kept = self._row_s.get(size)
        if kept is None:
            kept = self._row_s[size] = deque(maxlen=RUNS_KEPT)
        kept.append(run_s / rows)
        self._runs += 1
        self._away += 1
        if self._runs % REVIEW_EVERY == 0 or self._runs < WINDOW_RUNS or run_s >= INLINE_LIMIT_S or len(kept) <= TRIES:
            self._review()

    def is_short(self, rows: int) -> bool:
        """Whether a run over ``rows`` rows may be expected to stay below ``INLINE_LIMIT_S``."""
        return rows <= self.inline_rows

    def next_turn_rows(self) -> int:
        """Most rows of the next run of several requests on the loop."""
        return min(self._others_at_times(self.turn_rows), self.inline_rows)

    def next_batch_rows(self) -> int:
        """The same on the thread."""
        return self._others_at_times(self.batch_rows)

    def _others_at_times(self, rows: int) -> int:
        """Now and then more or fewer than is known to be good, to learn."""
        self._batches += 1
        turn = self._batches % EXPLORE_EVERY
        if turn == 0:
            return min(rows * 2, MAX_BATCH_ROWS)
        return max(rows // 2, 1) if turn == EXPLORE_EVERY // 2 else rows

    def _review(self) -> None:
        row_s = {size: median(kept) for size, kept in self._row_s.items()}
        best_s = min(row_s.values())
        near = [size for size, seconds in row_s.items() if seconds * NEAR_BEST <= best_s]
        self.batch_rows = min(self._rows_of(min(near)), max(1, int(THREAD_LIMIT_S / max(best_s, 1e-9))))
        self.turn_rows = self._rows_of(max(near))
        if self.inline_rows or self._runs == 1:
            self.inline_rows = _inline_rows(self._recent, row_s, INLINE_LIMIT_S, 0.9, row_s)
            self._away = 0
            return
        self.inline_rows = _inline_rows(self._recent, row_s, INLINE_LIMIT_S * BACK_SHARE, 0.9, ())
        if not self.inline_rows and self._away > self._patience:
            # A busy loop lets the thread wait for the interpreter, in most runs but not in all.
            self.inline_rows = _inline_rows(self._recent, row_s, INLINE_LIMIT_S * BACK_SHARE, 0.1, row_s)
            if self.inline_rows:
                self._patience = min(self._patience * 2, PATIENCE_MAX_RUNS)
                self._recent.clear()

    def _rows_of(self, size: int) -> int:
        """Rows of a size, or of the next one where that has hardly been tried."""
        rows = 1 << size
        if len(self._row_s.get(size + 1, ())) < TRIES:
            rows *= 2
        return min(rows, MAX_BATCH_ROWS)


def _inline_rows(
    recent: Iterable[tuple[int, float]], row_s: Mapping[int, float], limit_s: float, share: float, known: Iterable[int]
) -> int:
    """The most rows whose run fits in the limit: as runs of that size did, and beyond what was seen at their cost.

    Args:
        recent: Sizes and times of the last runs.
        row_s: Cost of a row by size.
        share: The quantile of the times of a size that must fit.
        known: Sizes that are judged by ``row_s`` where none of those seen lately fits.
    """
    by_size: dict[int, list[float]] = {}
    for size, run_s in recent:
        by_size.setdefault(size, []).append(run_s)
    rows, most = 0, MAX_BATCH_ROWS
    for size in sorted(by_size):
        if _quantile(by_size[size], share) >= limit_s:
            most = (1 << size) // 2
            break
        rows = max(1 << size, int(limit_s / max(row_s[size], 1e-9)))
    if not rows:
        fitting = [size for size in known if 1 << size <= most and row_s[size] * (1 << size) < limit_s]
        rows = max((int(limit_s / max(row_s[size], 1e-9)) for size in fitting), default=0)
    return min(rows, most)


def _quantile(values: list[float], share: float) -> float:
    values.sort()
    if len(values) > 9:
        return values[int(len(values) * share)]
    return values[-1 if share > 0.5 else 0]
