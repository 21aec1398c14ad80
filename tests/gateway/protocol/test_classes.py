"""Classification: exact for integers, sensible for NaN, and nothing breaks on empty tensors."""

import numpy as np
import pytest

from gateway.protocol.response import _classes


def test_integers_are_sorted_and_written_exactly() -> None:
    array = np.array([[9007199254740992, 9007199254740993, 3]], np.int64)
    assert _classes(array, 2).tolist() == [["9007199254740993:1", "9007199254740992:0"]]
    assert _classes(np.array([[0, 2**64 - 1]], np.uint64), 1).tolist() == [["18446744073709551615:1"]]


def test_of_equal_values_the_first_goes_first() -> None:
    assert _classes(np.array([[5, 7, 7]], np.int32), 2).tolist() == [["7:1", "7:2"]]
    assert _classes(np.array([[0.5, 0.5]], np.float32), 1).tolist() == [["0.500000:0"]]


def test_nan_goes_last() -> None:
    assert _classes(np.array([[np.nan, 0.25]], np.float32), 2).tolist() == [["0.250000:1", "nan:0"]]


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (2, 0)])
def test_empty_tensors_have_no_classes(shape: tuple[int, int]) -> None:
    assert _classes(np.zeros(shape, np.float32), 2).size == 0
