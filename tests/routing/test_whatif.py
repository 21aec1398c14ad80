"""Who would move, held against really making the edit and asking keys one by one."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from scipy.stats import binom

from routing.document import RouteDocument
from routing.edit import Delete, Replace, next_document
from routing.errors import RoutingError
from routing.explain import explain
from routing.table import PPM
from routing.whatif import KeyMove, Move, owners, what_if
from tests.builders import CHANGE_ID, document, route
from tests.routing.test_laws import routes

KEYS = [f"user-{n}" for n in range(10_000)]


def after_edit(before: RouteDocument, **parts: object) -> RouteDocument:
    after = next_document(before, Replace(route(**parts)), CHANGE_ID)  # type: ignore[arg-type]
    assert isinstance(after, RouteDocument)
    return after


@given(routes, routes)
@settings(max_examples=200, deadline=None)
def test_what_moves_is_the_sum_of_the_gains(first, second) -> None:  # type: ignore[no-untyped-def]
    before = next_document(None, Replace(first), CHANGE_ID)
    assert isinstance(before, RouteDocument)
    try:
        after = next_document(before, Replace(second), CHANGE_ID) or before
    except RoutingError:
        return
    assert isinstance(after, RouteDocument)
    found = what_if(before, after)
    assert found.is_exact
    assert sum(found.before.values()) == sum(found.after.values()) == PPM
    assert found.before == first.weights()
    assert found.after == second.weights()
    assert found.moved_ppm == sum(found.gains.values()) == sum(move.ppm for move in found.moves)
    for version in found.before | found.after:
        arrived = sum(move.ppm for move in found.moves if move.target == version)
        left = sum(move.ppm for move in found.moves if move.source == version)
        assert found.after.get(version, 0) - found.before.get(version, 0) == arrived - left


@pytest.mark.parametrize(
    ("edits", "salt"),
    [
        (({"1": 95, "2": 5}, {"1": 80, "2": 20}), None),
        (({"1": 60, "2": 25, "3": 15}, {"1": 70, "2": 5, "3": 25}), None),
        (({"1": 50, "2": 50}, {"1": 50, "3": 50}), None),
        (({"1": 60, "2": 40}, {"1": 60, "2": 40}), "another"),
    ],
)
def test_it_agrees_with_making_the_edit_on_ten_thousand_keys(edits, salt) -> None:  # type: ignore[no-untyped-def]
    by = {"by": ["header:x-customer-id"]}
    before = document(route(weights=edits[0], sticky=by))
    after = after_edit(before, weights=edits[1], sticky=by | ({"salt": salt} if salt else {}))
    found = what_if(before, after, KEYS)
    really = [(explain(before, k.encode()).version, explain(after, k.encode()).version) for k in KEYS]
    assert [(key.before, key.after) for key in found.keys] == really
    counted = Counter(pair for pair in really if pair[0] != pair[1])
    assert set(counted) == {(move.source, move.target) for move in found.moves}
    for move in found.moves:
        low, high = binom.interval(1 - 1e-9, len(KEYS), move.ppm / PPM)
        assert low <= counted[move.source, move.target] <= high, move
    assert found.is_exact == (salt is None)


def test_a_canary_that_grows_takes_from_stable_alone() -> None:
    before = document(route(weights={"1": 95, "2": 5}, sticky={"by": ["header:x-id"]}))
    found = what_if(before, after_edit(before, weights={"1": 80, "2": 20}, sticky={"by": ["header:x-id"]}), ["a"])
    assert found.moves == (Move("1", "2", 150_000),)
    assert (found.moved_ppm, found.gains, found.notes) == (150_000, {"2": 150_000}, ())
    assert found.keys == (KeyMove("a", "1", "1"),)


def test_a_route_that_is_new_or_was_deleted_moves_nobody() -> None:
    fresh = document()
    for before in (None, next_document(fresh, Delete("credit"), CHANGE_ID)):
        found = what_if(before, fresh, ["a"])
        assert (found.before, found.moved_ppm, found.gains, found.keys[0].before) == ({}, 0, {}, None)
        assert "no route yet" in found.notes[0]


def test_owners_cover_the_key_space_once() -> None:
    pieces = [piece for piece, _ in owners(document(weights={"1": 60, "2": 30, "3": 10}))]
    assert (pieces[0][0], pieces[-1][1]) == (0, PPM)
    assert all(left[1] == right[0] for left, right in pairwise(pieces))
