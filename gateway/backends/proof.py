"""Whether rows that share a run answer as each does alone."""

from collections.abc import Mapping, Sequence

import numpy as np

from gateway.protocol.shapes import DTYPES, Signature, TensorSpec
from gateway.protocol.tensors import Array

ABSOLUTE = 1e-6
RELATIVE = 1e-5  # 84 steps of FP32, for outputs far from 1
HALF = 1e-2  # for FP16, of which 10 bits are the fraction
TRIAL_ROWS = 3


def trial_feeds(signature: Signature) -> list[dict[str, Array]]:
    """Requests of one row each, unlike one another, that a model may or may not take."""
    draws = np.random.default_rng(0)
    return [{spec.name: _trial(spec, row, draws) for spec in signature.inputs} for row in range(TRIAL_ROWS)]


def differ(each: Sequence[Mapping[str, Array]]) -> bool:
    """Whether the requests are not all the same, which would prove little."""
    first = each[0]
    return any(not np.array_equal(feeds[name], first[name]) for feeds in each[1:] for name in first)


def are_alike(alone: Sequence[Array], together: Sequence[Array]) -> bool:
    """Whether the outputs of one request are the same both ways: floats nearly, all else exactly."""
    return all(_alike(a, b) for a, b in zip(alone, together, strict=True))


def _alike(a: Array, b: Array) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    if a.dtype == np.float16:
        return bool(np.allclose(a, b, rtol=HALF, atol=HALF, equal_nan=True))
    return bool(np.allclose(a, b, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True))


def _trial(spec: TensorSpec, row: int, draws: np.random.Generator) -> Array:
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, "x" * row, dtype=np.object_)
    dtype = np.dtype(DTYPES[spec.datatype])
    if dtype.kind == "f":
        return draws.normal(size=shape).astype(dtype)
    return draws.integers(0, 2, size=shape).astype(dtype)
