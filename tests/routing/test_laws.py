"""Laws of routing over random edit sequences."""

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from routing.codec import decode, encode
from routing.document import RouteDocument
from routing.edit import Change, Flip, Lower, Release, Replace, next_document
from routing.errors import RoutingError
from routing.explain import explain
from routing.hashing import bucket, shadow_salt, split_salt
from routing.intervals import complement, size
from routing.split import SplitPlan, in_shadow_sample, split_plan
from routing.table import PPM, Route, Variant
from tests.builders import CHANGE_ID, document, route

VERSIONS = ["1", "2", "3", "4"]


def split_of(weights: list[int]) -> Route:
    variants = tuple(Variant(version=v, weight_ppm=w) for v, w in zip(VERSIONS, weights, strict=True))
    return Route(model="credit", stable="1", variants=variants)


@st.composite
def weightings(draw: st.DrawFn) -> list[int]:
    cuts = sorted(draw(st.lists(st.integers(0, PPM), min_size=3, max_size=3)))
    return [b - a for a, b in pairwise([0, *cuts, PPM])]


routes = st.builds(
    lambda weights, stable: split_of(weights).model_copy(update={"stable": stable}),
    weightings(),
    st.sampled_from(VERSIONS),
)
changes = st.one_of(
    st.builds(Replace, routes),
    st.builds(Flip, st.just("credit"), st.sampled_from([None, *VERSIONS]), st.just("because"), st.just(0.0)),
    st.builds(Release, st.just("credit"), st.sampled_from([None, *VERSIONS]), st.just("because")),
    st.builds(
        Lower,
        st.just("credit"),
        st.sampled_from(VERSIONS),
        st.integers(0, 6),
        st.just("because"),
        st.just({"odds": 1e6}),
        st.just(0.0),
    ),
)


def owners(current: RouteDocument) -> list[tuple[int, int, str]]:
    """The whole key space as pieces with their owners."""
    pieces = current.intervals.pieces
    owned = [(a, b, version) for version, own in pieces.items() for a, b in own]
    free = complement((a, b) for a, b, _ in owned)
    return sorted(owned + [(a, b, current.route.stable) for a, b in free])


def moved(before: RouteDocument, after: RouteDocument) -> int:
    """Exact length of the key space whose owner changed."""
    total = 0
    new = owners(after)
    for a, b, version in owners(before):
        total += sum(max(0, min(b, d) - max(a, c)) for c, d, other in new if other != version)
    return total


def apply(current: RouteDocument | None, change: Change) -> RouteDocument | None:
    try:
        following = next_document(current, change, CHANGE_ID)
    except RoutingError:
        return current
    assert following is None or isinstance(following, RouteDocument)
    return following or current


@settings(max_examples=200, deadline=None)
@given(st.lists(changes, min_size=2, max_size=12))
def test_keys_moved_are_the_sum_of_the_gains(edits: list[Change]) -> None:
    current: RouteDocument | None = None
    for edit in edits:
        following = apply(current, edit)
        if current is not None and following is not None and following is not current:
            gains = sum(max(0, w - current.route.weights().get(v, 0)) for v, w in following.route.weights().items())
            assert moved(current, following) == gains
        current = following


@settings(max_examples=200, deadline=None)
@given(st.lists(changes, min_size=1, max_size=12))
def test_a_version_owns_exactly_its_weight_and_the_pieces_never_overlap(edits: list[Change]) -> None:
    current: RouteDocument | None = None
    for edit in edits:
        current = apply(current, edit)
    if current is None:
        return
    spans = owners(current)
    assert spans[0][0] == 0
    assert spans[-1][1] == PPM
    assert all(left[1] == right[0] for left, right in pairwise(spans))
    for version, weight in current.route.weights().items():
        assert size((a, b) for a, b, owner in spans if owner == version) == weight


@settings(max_examples=100, deadline=None)
@given(weightings(), weightings())
def test_growing_a_share_moves_nobody_back(first: list[int], second: list[int]) -> None:
    before = document(split_of(first))
    after = apply(before, Replace(split_of(second)))
    assert after is not None
    for version in VERSIONS:
        if after.route.weights()[version] < before.route.weights()[version]:
            continue
        old = [(a, b) for a, b, owner in owners(before) if owner == version]
        new = [(a, b) for a, b, owner in owners(after) if owner == version]
        kept = sum(max(0, min(b, d) - max(a, c)) for a, b in old for c, d in new)
        assert kept == size(old), f"version {version} grew or stayed and lost keys"


def test_a_change_of_stable_alone_moves_no_key() -> None:
    before = document(route(weights={"1": 60, "2": 30, "3": 10}))
    after = apply(before, Replace(route(stable="3", weights={"1": 60, "2": 30, "3": 10})))
    assert after is not None
    assert moved(before, after) == 0
    assert "3" not in after.intervals.pieces


@settings(max_examples=200, deadline=None)
@given(st.lists(changes, min_size=1, max_size=8))
def test_decoding_gives_back_what_was_encoded(edits: list[Change]) -> None:
    current: RouteDocument | None = None
    for edit in edits:
        current = apply(current, edit)
    if current is not None:
        assert decode(encode(current)) == current


@settings(max_examples=200, deadline=None)
@given(st.lists(changes, min_size=1, max_size=8), changes)
def test_a_refused_change_changes_nothing_and_an_accepted_one_makes_one_revision(
    edits: list[Change], last: Change
) -> None:
    current: RouteDocument | None = None
    for edit in edits:
        current = apply(current, edit)
    frozen = encode(current) if current else b""
    try:
        following = next_document(current, last, CHANGE_ID)
    except RoutingError:
        following = None
    assert (encode(current) if current else b"") == frozen
    if following is not None and current is not None:
        assert following.revision == current.revision + 1
        latched = current.guard.latched if isinstance(last, Release) else following.guard.latched
        if not isinstance(last, Release):
            weights = following.route.weights() if isinstance(following, RouteDocument) else {}
            assert not [v for v in latched if weights.get(v)], "a latched version never has weight"


def test_shares_converge_within_the_exact_binomial_bound() -> None:
    n, tail = 20_000, 1e-9
    current = document(route(weights={"1": 74.5, "2": 5, "3": 20.5}))
    plan, names = compiled(current)
    counts = dict.fromkeys(names, 0)
    for key in range(n):
        counts[names[plan.choose(b"customer-%d" % key)]] += 1
    for version, weight in current.route.weights().items():
        low, high = binom.ppf(tail, n, weight / PPM), binom.isf(tail, n, weight / PPM)
        assert low <= counts[version] <= high, f"{version}: {counts[version]} not in [{low}, {high}]"


def compiled(current: RouteDocument) -> tuple[SplitPlan, list[str]]:
    names = list(current.route.weights())
    return split_plan(current, {v: i for i, v in enumerate(names)}), names


GOLDEN = [
    ("credit/0/split", "", 162_096),
    ("credit/0/split", "customer-1", 487_034),
    ("credit-a/0/split", "customer-1", 840_009),
    ("credit/1/split", "customer-1", 900_147),
    ("credit/0/shadow/3", "customer-1", 10_889),
    ("modèle/0/split", "clé €", 12_600),
]


@pytest.mark.parametrize(("salt", "key", "place"), GOLDEN)
def test_golden_vectors(salt: str, key: str, place: int) -> None:
    assert bucket(salt.encode(), key.encode()) == place


def test_the_salts_are_those_of_the_golden_vectors() -> None:
    assert split_salt("credit", 0) == b"credit/0/split"
    assert shadow_salt("credit", 0, "3") == b"credit/0/shadow/3"


def test_the_same_key_gets_the_same_version_in_another_process() -> None:
    script = (
        "from tests.routing.test_laws import *\n"
        "plan, names = compiled(document(route(weights={'1': 50, '2': 50})))\n"
        "print(''.join(names[plan.choose(b'customer-%d' % n)] for n in range(500)))"
    )
    plan, names = compiled(document(route(weights={"1": 50, "2": 50})))
    here = "".join(names[plan.choose(b"customer-%d" % n)] for n in range(500))
    for seed in ("0", "1"):
        there = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert there.stdout.strip() == here


def test_the_shadow_sample_is_independent_of_the_variant() -> None:
    n = 20_000
    current = document(
        route(weights={"1": 50, "2": 50}, shadows=[{"version": "3", "sample": 50}]),
    )
    plan, _ = compiled(current)
    both = sum(
        plan.choose(key) == 1 and in_shadow_sample(current, "3", 500_000, key)
        for key in (b"customer-%d" % i for i in range(n))
    )
    assert binom.ppf(1e-9, n, 0.25) <= both <= binom.isf(1e-9, n, 0.25)


def test_explain_agrees_with_the_plan_on_10_000_keys() -> None:
    current = document(route(weights={"1": 70, "2": 20, "3": 10}))
    plan, names = compiled(current)
    for n in range(10_000):
        key = b"customer-%d" % n
        assert explain(current, key).version == names[plan.choose(key)]
