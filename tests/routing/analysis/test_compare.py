"""Pairs of answers added up: laws of differences, tolerances, shares and ratios."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.analysis.compare import (
    HALF,
    OUTPUTS_MAX,
    SINGLE,
    Difference,
    Pairs,
    Ratios,
    agrees,
    float_difference,
    same_labels,
    tolerance,
)

FINITE = st.floats(-1e6, 1e6, width=32)


@pytest.mark.parametrize(
    ("stable", "shadow", "expected"),
    [
        ("FP32", "FP32", SINGLE),
        ("FP64", "FP32", SINGLE),
        ("FP32", "FP16", HALF),
        ("FP16", "FP16", HALF),
        ("INT64", "INT64", None),
        ("BYTES", "BYTES", None),
        ("FP32", "INT64", None),
    ],
)
def test_the_tolerance_is_that_of_the_coarser_datatype(stable: str, shadow: str, expected: object) -> None:
    assert tolerance(stable, shadow) == expected


@given(st.lists(st.floats(width=32), max_size=8))
def test_a_tensor_agrees_with_itself_whatever_it_holds(values: list[float]) -> None:
    found = float_difference(values, values, SINGLE, 2)
    assert agrees({"p": found})
    assert (found.max_abs, found.sum_abs, found.not_finite, found.labels_unequal) == (0.0, 0.0, 0, 0)


@given(st.lists(st.tuples(FINITE, FINITE), max_size=8))
def test_the_absolute_difference_has_no_sides(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = float_difference(ours, theirs, SINGLE, 0), float_difference(theirs, ours, SINGLE, 0)
    assert (there.max_abs, there.sum_abs) == (back.max_abs, back.sum_abs)
    assert there.max_abs <= there.sum_abs


@given(st.floats(1e-3, 1e6), st.floats(0, 0.01))
def test_a_value_is_beyond_exactly_when_the_tolerance_says_so(value: float, off: float) -> None:
    found = float_difference([value], [value * (1 + off)], SINGLE, 0)
    apart = abs(value * (1 + off) - value)
    assert found.unequal == (apart > SINGLE.atol + SINGLE.rtol * value)
    assert found.max_rel == pytest.approx(apart / value)


@pytest.mark.parametrize(
    ("ours", "theirs", "unequal", "not_finite"),
    [
        (math.nan, math.nan, 0, 0),
        (math.nan, 1.0, 1, 1),
        (1.0, math.nan, 1, 1),
        (math.inf, math.inf, 0, 0),
        (math.inf, -math.inf, 1, 1),
        (math.inf, 1.0, 1, 1),
        (1.7e308, -1.7e308, 1, 0),
    ],
)
def test_what_is_not_finite_agrees_only_with_its_like(
    ours: float, theirs: float, unequal: int, not_finite: int
) -> None:
    found = float_difference([ours], [theirs], SINGLE, 0)
    assert (found.unequal, found.not_finite, found.max_abs) == (unequal, not_finite, 0.0)


def test_the_largest_of_a_row_is_its_label() -> None:
    found = float_difference([0.9, 0.1, 0.4, 0.6], [0.8, 0.2, 0.6, 0.4], SINGLE, 2)
    assert (found.labels, found.labels_unequal) == (2, 1)
    assert same_labels({"p": found}) is False
    assert float_difference([math.nan, 1.0], [0.0, 1.0], SINGLE, 2).labels == 0


@pytest.mark.parametrize("mismatch", ["missing", "extra", "datatype", "shape", "unreadable"])
def test_a_mismatch_is_no_agreement(mismatch: str) -> None:
    assert not agrees({"p": Difference(), "q": Difference(mismatch)})
    assert same_labels({"q": Difference(mismatch)}) is None


@given(st.lists(st.sampled_from(["same", "values", "shape", "shadow", "stable", "both"]), max_size=40))
def test_every_pair_is_counted_in_one_cell_of_the_table_and_shares_are_of_pairs(kinds: list[str]) -> None:
    pairs = Pairs()
    for kind in kinds:
        pairs.ended(stable_ok=kind not in {"stable", "both"}, shadow_ok=kind not in {"shadow", "both"})
        if kind in {"same", "values", "shape"}:
            bad = Difference("shape") if kind == "shape" else Difference(elements=2, unequal=int(kind == "values"))
            pairs.add({"p": bad})
    plain = pairs.as_json()
    assert sum(plain["table"].values()) == len(kinds)
    said = [kind for kind in kinds if kind != "both"]
    assert plain["agree_share"] == (said.count("same") / len(said) if said else None)
    assert plain["compared"] == sum(kinds.count(kind) for kind in ("same", "values", "shape"))
    assert plain["mismatches"].get("shape", 0) == kinds.count("shape")


def test_outputs_are_added_up_apart_and_their_names_are_bounded() -> None:
    pairs = Pairs()
    for n in range(OUTPUTS_MAX + 10):
        pairs.add({f"p{n}": Difference(elements=4, unequal=1, max_abs=0.5, sum_abs=1.0)})
    pairs.add({"p0": Difference(elements=4, max_abs=0.25, sum_abs=0.25)})
    assert len(pairs.outputs) == OUTPUTS_MAX
    plain = pairs.as_json()["outputs"]["p0"]
    assert (plain["elements"], plain["unequal"], plain["max_abs"], plain["mean_abs"]) == (8, 1, 0.5, 1.25 / 8)


@given(st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_of_ratios_is_within_half_a_cell(ratios: list[float], q: float) -> None:
    counted = Ratios()
    for ratio in ratios:
        counted.observe(ratio)
    exact = sorted(ratios)[max(1, math.ceil(q * len(ratios))) - 1]
    found = counted.quantile(q)
    assert found is not None
    assert abs(math.log2(found / exact)) <= 1 / 16 + 1e-9
    assert counted.slower == sum(ratio > 1.19 for ratio in ratios)
    assert counted.faster == sum(ratio < 1 / 1.19 for ratio in ratios)


def test_the_ratio_of_equals_is_one() -> None:
    counted = Ratios()
    assert counted.quantile(0.5) is None
    counted.observe(1.0)
    assert counted.quantile(0.5) == 1.0
    assert (counted.slower, counted.faster) == (0, 0)
