"""Two answers to one request, compared as tensors."""

from itertools import starmap
from operator import ne
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.protocol.outputs import Output, Unreadable, read_outputs
from routing.analysis.compare import Difference, Differences, Tolerance, float_difference, tolerance

Floats = NDArray[np.float64]

UNREADABLE = Difference("unreadable")
MISSING = Difference("missing")
EXTRA = Difference("extra")


def compare_answers(
    stable: bytes, stable_header_length: int | None, shadow: bytes, shadow_header_length: int | None
) -> Differences:
    """Differences by output; in JSON or in binary, only values count.

    Raises:
        Unreadable: Stable's answer is not one of the protocol, so there is nothing to compare with.
    """
    wanted = read_outputs(stable, stable_header_length)
    try:
        found = read_outputs(shadow, shadow_header_length)
    except Unreadable:
        return dict.fromkeys(wanted, UNREADABLE)
    differences = {
        name: difference(output, found[name]) if name in found else MISSING for name, output in wanted.items()
    }
    if found.keys() != wanted.keys():
        differences.update(dict.fromkeys(found.keys() - wanted.keys(), EXTRA))
    return differences


def difference(stable: Output, shadow: Output) -> Difference:
    """How far one output is from stable's."""
    if stable.shape != shadow.shape:
        return Difference("shape")
    mismatch = "" if stable.datatype == shadow.datatype else "datatype"
    allowed = tolerance(stable.datatype, shadow.datatype)
    ours, theirs = stable.values, shadow.values
    if allowed is None:
        return Difference(mismatch) if mismatch else _exact(ours, theirs, stable.shape)
    row = _row_size(stable.shape)
    if isinstance(ours, list) and isinstance(theirs, list):
        return float_difference(ours, theirs, allowed, row, mismatch)
    return _floats(np.asarray(ours), np.asarray(theirs), allowed, row, mismatch)


def _row_size(shape: tuple[int, ...]) -> int:
    """Classes in a row of scores; 0 when it is none."""
    return shape[1] if len(shape) == 2 and shape[1] > 1 else 0


def _exact(stable: Any, shadow: Any, shape: tuple[int, ...]) -> Difference:
    unequal = 0 if stable == shadow else sum(starmap(ne, zip(stable, shadow, strict=True)))
    has_labels = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    return Difference(
        elements=len(stable),
        unequal=unequal,
        labels=len(stable) if has_labels else 0,
        labels_unequal=unequal if has_labels else 0,
    )


def _floats(stable: Floats, shadow: Floats, allowed: Tolerance, row: int, mismatch: str) -> Difference:
    """What ``float_difference`` says, by numpy."""
    unequal = not_finite = 0
    with np.errstate(all="ignore"):
        apart = np.abs(shadow - stable)
        scale = np.abs(stable)
        if not np.isfinite(apart.sum()):
            nan_stable, nan_shadow = np.isnan(stable), np.isnan(shadow)
            finite = np.isfinite(apart)
            odd = ~finite & (stable != shadow) & ~(nan_stable & nan_shadow)
            unequal = int(np.count_nonzero(odd))
            not_finite = int(np.count_nonzero(odd & ~(np.isfinite(stable) & np.isfinite(shadow))))
            apart = np.where(finite, apart, 0.0)
            scale = np.where(np.isfinite(scale), scale, 0.0)
            row = 0 if nan_stable.any() or nan_shadow.any() else row
        relative = apart / np.maximum(scale, allowed.atol)
        unequal += int(np.count_nonzero(apart > allowed.atol + allowed.rtol * scale))
        sum_abs, sum_rel = float(apart.sum()), float(relative.sum())
    labels = stable.size // row if row else 0
    other = stable.reshape(-1, row).argmax(1) != shadow.reshape(-1, row).argmax(1) if labels else ()
    return Difference(
        mismatch,
        stable.size,
        unequal,
        not_finite,
        float(apart.max()),
        sum_abs,
        float(relative.max()),
        sum_rel,
        labels,
        int(np.count_nonzero(other)),
    )
