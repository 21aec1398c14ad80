"""Laws of the latency histogram."""

from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.analysis.histogram import CELLS, EDGES_S, LOWEST_S, Histogram

latencies = st.lists(st.floats(LOWEST_S, 300.0), min_size=1, max_size=60)


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    return histogram


@given(latencies, st.floats(0, 1))
def test_a_quantile_is_never_below_the_true_one_and_at_most_a_fifth_above(values: list[float], q: float) -> None:
    true = sorted(values)[max(1, ceil(q * len(values))) - 1]
    found = filled(values).quantile(q)
    assert found is not None
    assert true <= found <= true * 2**0.25 * (1 + 1e-9)


@given(latencies, latencies)
def test_adding_is_counting_together(first: list[float], second: list[float]) -> None:
    merged = filled(first)
    merged.add(filled(second))
    assert merged.as_counts() == filled(first + second).as_counts()
    assert merged.sum_s == pytest.approx(sum(first) + sum(second))


def test_cells_grow_by_a_fourth_root_of_two_and_reach_five_minutes() -> None:
    assert EDGES_S[0] == 1e-4
    assert EDGES_S[4] == pytest.approx(2e-4)
    assert 300 < EDGES_S[-1] < 360


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None


def test_latencies_off_the_scale_are_counted_at_its_ends() -> None:
    histogram = filled([0.0, 1e-9, 1e6])
    assert histogram.as_counts()[0] == 2
    assert histogram.as_counts()[-1] == 1
    assert histogram.quantile(1.0) == inf


def test_counts_make_the_same_histogram_again() -> None:
    histogram = filled([0.003, 0.2, 7.0])
    again = Histogram(histogram.as_counts(), histogram.sum_s)
    assert (again.as_counts(), again.count, again.sum_s) == (histogram.as_counts(), 3, histogram.sum_s)


def test_counts_of_another_scale_are_refused() -> None:
    with pytest.raises(ValueError, match=str(CELLS)):
        Histogram([1, 2, 3])
