"""Datatypes, shapes and signatures of the Open Inference Protocol v2."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from struct import Struct
from typing import Any

import numpy as np

# Bytes of one element; BYTES is variable and has none.
ELEMENT_BYTES: dict[str, int | None] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": None,
}

# In memory.
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}

# Of numbers that JSON can say, as ``struct`` and ``array`` name them. In ``struct`` with standard sizes ("="):
# for those alone a number too large for FP32 is an error.
TYPE_CODES = {
    "INT8": "b",
    "UINT8": "B",
    "INT16": "h",
    "UINT16": "H",
    "INT32": "i",
    "UINT32": "I",
    "INT64": "q",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
}
LENGTH = Struct("<I")  # before each element of BYTES in binary form
MAX_RANK = 32
MAX_ELEMENTS = 1 << 31  # bounds the product before anything is allocated


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a version promises about one tensor; ``-1`` in ``shape`` is any size.

    Attributes:
        labels: Of an output, what its classes are called, in their order; empty where nobody says.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()

    def admits(self, shape: Sequence[int]) -> bool:
        """Whether a concrete shape fits."""
        if len(shape) != len(self.shape):
            return False
        for want, got in zip(self.shape, shape, strict=True):  # noqa: SIM110 (half the time of all())
            if want not in (-1, got):
                return False
        return True

    def as_json(self) -> dict[str, object]:
        """Metadata form: ``{"name", "datatype", "shape"}``."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of one version."""

    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def strings(self) -> frozenset[str]:
        """Names of the outputs that hold strings."""
        return frozenset(spec.name for spec in self.outputs if spec.datatype == "BYTES")


def element_count(shape: Sequence[int]) -> int:
    """Elements of a concrete shape; 1 for a scalar."""
    return prod(shape)
