"""Pairs of answers to the same request: what a shadow said beside what stable said, and the sum of many pairs."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, isfinite, isnan, log2
from typing import Any, NamedTuple

SLOWER = 1.19  # a shadow is slower than stable from this ratio on, faster below its inverse
OUTPUTS_MAX = 64  # names of outputs that are added up apart; they come from servers
FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
HALVES = frozenset({"FP16", "BF16"})


class Tolerance(NamedTuple):
    """Values agree while ``|shadow - stable| <= atol + rtol * |stable|``."""

    rtol: float
    atol: float


SINGLE = Tolerance(1e-3, 1e-6)
HALF = Tolerance(1e-2, 1e-6)


def tolerance(stable: str, shadow: str) -> Tolerance | None:
    """How far two datatypes' values may lie apart; ``None``: not at all (integers, BOOL, BYTES)."""
    if stable not in FLOATS or shadow not in FLOATS:
        return None
    return HALF if stable in HALVES or shadow in HALVES else SINGLE


class Difference(NamedTuple):
    """One output of one pair.

    Attributes:
        mismatch: What is wrong beside values: ``missing`` or ``extra`` in the shadow's answer, ``datatype``, ``shape``,
            ``unreadable``; else empty.
        elements: Elements that were compared.
        unequal: Of these, beyond the tolerance; for exact datatypes, not equal.
        not_finite: Of these, NaN or infinite on one side and not on the other.
        max_abs: Largest ``|shadow - stable|`` of the finite ones; ``sum_abs`` is their sum.
        max_rel: Largest ``|shadow - stable| / max(|stable|, atol)``; ``sum_rel`` is their sum.
        labels: Rows that name a class: by the element of an exact output with one element a row, or by the place of the
            largest element in a row of a float output of rank 2 without NaN.
        labels_unequal: Of these, another class.
    """

    mismatch: str = ""
    elements: int = 0
    unequal: int = 0
    not_finite: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    max_rel: float = 0.0
    sum_rel: float = 0.0
    labels: int = 0
    labels_unequal: int = 0


Differences = Mapping[str, Difference]


def agrees(differences: Differences) -> bool:
    """Whether two answers say the same: no mismatch, and no element beyond its tolerance."""
    return not any(d.mismatch or d.unequal for d in differences.values())


def same_labels(differences: Differences) -> bool | None:
    """Whether two answers name the same classes; ``None`` when they name none."""
    if not any(d.labels for d in differences.values()):
        return None
    return not any(d.labels_unequal for d in differences.values())


def float_difference(
    stable: Sequence[float], shadow: Sequence[float], allowed: Tolerance, row: int, mismatch: str = ""
) -> Difference:
    """Difference of two equally long float outputs, one element after the other: for outputs of a few elements.

    Args:
        stable: Values in row-major order; ``shadow`` alike.
        row: Elements of a row whose largest names a class; 0 when rows name none.
    """
    rtol, atol = allowed
    unequal = not_finite = 0
    has_nan = False
    max_abs = sum_abs = max_rel = sum_rel = 0.0
    for a, b in zip(stable, shadow, strict=True):
        if a == b:
            continue
        apart = abs(b - a)
        if not isfinite(apart):
            nans = isnan(a) + isnan(b)
            has_nan = has_nan or nans > 0
            if nans < 2:
                unequal += 1
                not_finite += not (isfinite(a) and isfinite(b))
            continue
        scale = abs(a)
        relative = apart / max(scale, atol)
        unequal += apart > atol + rtol * scale
        sum_abs += apart
        sum_rel += relative
        max_abs = max(max_abs, apart)
        max_rel = max(max_rel, relative)
    labels = len(stable) // row if row and not has_nan else 0
    starts = range(0, labels * row, row or 1)
    other = sum(_largest(stable[at : at + row]) != _largest(shadow[at : at + row]) for at in starts)
    return Difference(mismatch, len(stable), unequal, not_finite, max_abs, sum_abs, max_rel, sum_rel, labels, other)


def _largest(row: Sequence[float]) -> int:
    return row.index(max(row))


class OutputTotals:
    """One output over all pairs. Sums, so they merge by addition, and largest values."""

    __slots__ = (
        "elements",
        "labels",
        "labels_unequal",
        "max_abs",
        "max_rel",
        "not_finite",
        "sum_abs",
        "sum_rel",
        "unequal",
    )

    def __init__(self) -> None:
        self.elements = self.unequal = self.not_finite = self.labels = self.labels_unequal = 0
        self.max_abs = self.sum_abs = self.max_rel = self.sum_rel = 0.0

    def add(self, difference: Difference) -> None:
        """Take in one pair's."""
        self.elements += difference.elements
        self.unequal += difference.unequal
        self.not_finite += difference.not_finite
        self.labels += difference.labels
        self.labels_unequal += difference.labels_unequal
        self.max_abs = max(self.max_abs, difference.max_abs)
        self.sum_abs += difference.sum_abs
        self.max_rel = max(self.max_rel, difference.max_rel)
        self.sum_rel += difference.sum_rel

    def as_counts(self) -> dict[str, Any]:
        """What merges."""
        return {name: getattr(self, name) for name in self.__slots__}

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Take in another one's."""
        for name, value in counts.items():
            mine = getattr(self, name)
            setattr(self, name, max(mine, value) if name.startswith("max_") else mine + value)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; means over all elements."""
        count = max(self.elements, 1)
        return {
            "elements": self.elements,
            "unequal": self.unequal,
            "not_finite": self.not_finite,
            "max_abs": self.max_abs,
            "mean_abs": self.sum_abs / count,
            "max_rel": self.max_rel,
            "mean_rel": self.sum_rel / count,
            "labels": self.labels,
            "labels_unequal": self.labels_unequal,
        }


class Ratios:
    """Ratios counted in cells that are an eighth of an octave (9 %) wide, 1 in the middle of its cell."""

    __slots__ = ("_counts", "faster", "slower")

    CELLS_PER_OCTAVE = 8
    LARGEST = 128  # cells to either side of 1: from 1/65536 to 65536

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.slower = self.faster = 0

    def observe(self, ratio: float) -> None:
        """Count one ratio above 0."""
        cell = floor(log2(ratio) * self.CELLS_PER_OCTAVE + 0.5)
        cell = max(-self.LARGEST, min(self.LARGEST, cell))
        self._counts[cell] = self._counts.get(cell, 0) + 1
        self.slower += ratio > SLOWER
        self.faster += ratio < 1 / SLOWER

    def as_counts(self) -> dict[str, Any]:
        """What merges."""
        counts = {str(cell): count for cell, count in self._counts.items()}
        return {"counts": counts, "slower": self.slower, "faster": self.faster}

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Take in another one's."""
        for cell, count in counts.get("counts", {}).items():
            self._counts[int(cell)] = self._counts.get(int(cell), 0) + count
        self.slower += counts.get("slower", 0)
        self.faster += counts.get("faster", 0)

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self._counts.values())

    def quantile(self, q: float) -> float | None:
        """Middle of the cell that holds the quantile, at most 4.5 % off; ``None`` when nothing was counted."""
        rank, seen = max(1, ceil(q * self.count)), 0
        for cell in sorted(self._counts):
            seen += self._counts[cell]
            if seen >= rank:
                return float(2 ** (cell / self.CELLS_PER_OCTAVE))
        return None


PAIR_COUNTS = (
    *("both_ok", "shadow_failed", "stable_failed", "both_failed"),
    *("compared", "agreed", "labelled", "same_labels"),
)


class Pairs:
    """All pairs of one shadow and one stable. Mutable; not shared between threads.

    Attributes:
        both_ok: Both answered; ``shadow_failed``, ``stable_failed`` and ``both_failed`` are the table's other fields.
        compared: Pairs whose answers were compared.
        agreed: Of these, the same within the tolerances.
        labelled: Of these, naming classes; ``same_labels`` the same ones.
        mismatches: Outputs of compared pairs by what was wrong with them, beside their values.
        ratios: Shadow's latency over stable's, where both answered.
    """

    __slots__ = (
        "agreed",
        "both_failed",
        "both_ok",
        "compared",
        "labelled",
        "mismatches",
        "outputs",
        "ratios",
        "same_labels",
        "shadow_failed",
        "stable_failed",
    )

    def __init__(self) -> None:
        self.both_ok = self.shadow_failed = self.stable_failed = self.both_failed = 0
        self.compared = self.agreed = self.labelled = self.same_labels = 0
        self.mismatches: dict[str, int] = {}
        self.outputs: dict[str, OutputTotals] = {}
        self.ratios = Ratios()

    def ended(self, *, stable_ok: bool, shadow_ok: bool) -> None:
        """Both attempts on one request have ended."""
        self.both_ok += stable_ok and shadow_ok
        self.shadow_failed += stable_ok and not shadow_ok
        self.stable_failed += shadow_ok and not stable_ok
        self.both_failed += not (stable_ok or shadow_ok)

    def add(self, differences: Differences) -> None:
        """Take in one pair whose answers were compared."""
        self.compared += 1
        self.agreed += agrees(differences)
        same = same_labels(differences)
        self.labelled += same is not None
        self.same_labels += same is True
        for name, difference in differences.items():
            if difference.mismatch:
                self.mismatches[difference.mismatch] = self.mismatches.get(difference.mismatch, 0) + 1
            if difference.elements and (name in self.outputs or len(self.outputs) < OUTPUTS_MAX):
                self.outputs.setdefault(name, OutputTotals()).add(difference)

    def as_counts(self) -> dict[str, Any]:
        """What merges, as plain data."""
        return {
            **{name: getattr(self, name) for name in PAIR_COUNTS},
            "mismatches": dict(self.mismatches),
            "outputs": {name: totals.as_counts() for name, totals in self.outputs.items()},
            "ratios": self.ratios.as_counts(),
        }

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Take in another one's, in any order; what is left out there is 0."""
        for name in PAIR_COUNTS:
            setattr(self, name, getattr(self, name) + counts.get(name, 0))
        for mismatch, count in counts.get("mismatches", {}).items():
            self.mismatches[mismatch] = self.mismatches.get(mismatch, 0) + count
        for name, totals in counts.get("outputs", {}).items():
            if name in self.outputs or len(self.outputs) < OUTPUTS_MAX:
                self.outputs.setdefault(name, OutputTotals()).add_counts(totals)
        self.ratios.add_counts(counts.get("ratios", {}))

    def as_json(self) -> dict[str, Any]:
        """Plain numbers. A pair that one side failed has not agreed; one that both failed says nothing."""
        pairs = self.compared + self.shadow_failed + self.stable_failed
        return {
            "compared": self.compared,
            "agreed": self.agreed,
            "agree_share": self.agreed / pairs if pairs else None,
            "label_agree_share": self.same_labels / self.labelled if self.labelled else None,
            "mismatches": dict(self.mismatches),
            "outputs": {name: totals.as_json() for name, totals in self.outputs.items()},
            "table": {
                "both_ok": self.both_ok,
                "shadow_failed": self.shadow_failed,
                "stable_failed": self.stable_failed,
                "both_failed": self.both_failed,
            },
            "latency_ratio": {
                "count": self.ratios.count,
                **{f"p{q * 100:g}": _rounded(self.ratios.quantile(q)) for q in (0.5, 0.9, 0.99)},
                "slower": self.ratios.slower,
                "faster": self.ratios.faster,
            },
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
