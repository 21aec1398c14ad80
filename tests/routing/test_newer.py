"""Documents of a newer release: unknown keys are kept, weights and latches are followed whatever else is new."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.codec import as_json, decode, encode, lowered_as_in
from routing.document import SCHEMA, DeletedRoute, RouteDocument
from routing.edit import Change, Delete, Flip, Lower, Replace, next_document
from routing.errors import InvalidDocument, NewerSchema, RoutingError
from routing.intervals import size
from routing.table import PPM
from tests.builders import CHANGE_ID, document, route
from tests.routing.test_laws import changes, routes

KEYS = st.sampled_from(["mood", "zone_b", "über"])
VALUES = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))


def after(current: RouteDocument, *edits: Change) -> RouteDocument:
    for edit in edits:
        try:
            following = next_document(current, edit, CHANGE_ID)
        except RoutingError:
            continue
        assert following is None or isinstance(following, RouteDocument)
        current = following or current
    return current


def objects(plain: Any) -> list[dict[str, Any]]:
    """Every object of a document whose keys are fixed, and so may be joined by others."""
    latches = list(plain["guard"]["latched"].values())
    return [plain, plain["route"], *plain["route"]["variants"], plain["intervals"], plain["guard"], *latches]


def newer(current: RouteDocument, unknown: dict[str, Any], schema: int = SCHEMA + 1) -> bytes:
    """A document as a newer release might write it: each object has keys of its own."""
    plain = as_json(current)
    for place in objects(plain):
        place.update(unknown)
    return json.dumps({**plain, "schema": schema}).encode()


@given(st.lists(changes, max_size=6), st.lists(changes, max_size=4), st.dictionaries(KEYS, VALUES, max_size=2))
def test_weights_latches_and_pieces_of_a_newer_schema_are_followed(
    before: list[Change], since: list[Change], unknown: dict[str, Any]
) -> None:
    known = after(document(), Replace(route(weights={"1": 70, "2": 10, "3": 10, "4": 10})), *before)
    current = after(known, *since)
    data = newer(current, unknown)
    with pytest.raises(NewerSchema):
        decode(data)
    followed = lowered_as_in(data, known)
    assert isinstance(followed, RouteDocument)
    assert followed.route.weights() == current.route.weights()
    assert followed.route.stable == current.route.stable
    assert followed.guard.latched == current.guard.latched
    assert followed.intervals.pieces == current.intervals.pieces
    assert (followed.revision, followed.epoch) == (current.revision, current.epoch)


@given(st.lists(changes, max_size=6), st.dictionaries(KEYS, VALUES, min_size=1, max_size=2), changes)
def test_unknown_keys_stay_where_they_are_through_any_edit(
    edits: list[Change], unknown: dict[str, Any], edit: Change
) -> None:
    current = after(document(), *edits)
    read = decode(newer(current, unknown, schema=SCHEMA))
    assert isinstance(read, RouteDocument)
    written = json.loads(encode(after(read, edit)))
    for place in (written, written["route"], written["intervals"], written["guard"]):
        assert unknown.items() <= place.items()
    kept = {variant["version"] for variant in as_json(current)["route"]["variants"]}
    for variant in written["route"]["variants"]:
        assert (unknown.items() <= variant.items()) == (variant["version"] in kept)
    for version, latch in written["guard"]["latched"].items():
        assert (unknown.items() <= latch.items()) == (version in current.guard.latched)


@given(routes, st.integers(0, PPM))
def test_what_is_not_known_here_is_stable_s_share(told: Any, ppm: int) -> None:
    """A replica that knows versions 1 and 2 follows any division of any versions."""
    known = document()
    current = next_document(None, Replace(told), CHANGE_ID)
    assert isinstance(current, RouteDocument)
    followed = lowered_as_in(newer(current, {}), known)
    assert isinstance(followed, RouteDocument)
    weights = followed.route.weights()
    assert weights.keys() == {"1", "2"}
    assert sum(weights.values()) == PPM
    stable = followed.route.stable
    assert stable == (told.stable if told.stable in weights else "1")
    other = "2" if stable == "1" else "1"
    assert weights[other] == told.weights()[other]
    assert sum(map(size, followed.intervals.pieces.values())) == weights[other]


def test_a_latched_version_gets_nothing_whatever_the_newer_document_says() -> None:
    plain = as_json(document())
    plain["guard"]["latched"]["2"] = {"at": "", "reason": "by a newer release", "how": "another way"}
    followed = lowered_as_in(json.dumps({**plain, "schema": 9}).encode(), document())
    assert isinstance(followed, RouteDocument)
    assert followed.route.weights() == {"1": PPM, "2": 0}
    assert followed.intervals.pieces == {}


def test_a_version_that_moved_to_another_backend_is_not_taken_for_the_known_one() -> None:
    spec = {"kind": "oip", "url": "http://127.0.0.1:9000"}
    known = document(backends={"2": spec})
    for changed, share in (({}, 50_000), ({"zone": "eu"}, 50_000), ({"url": "http://127.0.0.1:9001"}, 0)):
        plain = as_json(known)
        plain["route"]["backends"]["2"].update(changed)
        followed = lowered_as_in(json.dumps({**plain, "schema": 9}).encode(), known)
        assert isinstance(followed, RouteDocument)
        assert followed.route.weights()["2"] == share


def test_without_anything_known_a_newer_document_is_read_as_far_as_it_goes() -> None:
    current = after(document(), Flip("credit", "2", "bad", 0.0))
    followed = lowered_as_in(newer(current, {"mood": "good"}), None)
    assert isinstance(followed, RouteDocument)
    assert followed.route == current.route
    assert followed.guard == current.guard


def test_a_deletion_by_a_newer_release_is_followed() -> None:
    gone = next_document(document(), Delete("credit"), CHANGE_ID)
    assert isinstance(gone, DeletedRoute)
    data = json.dumps({**as_json(gone), "schema": 9, "mood": "sad"}).encode()
    assert isinstance(lowered_as_in(data, document()), DeletedRoute)


@pytest.mark.parametrize("broken", [{}, {"route": None}, {"guard": {"latched": []}}, {"intervals": {"pieces": 3}}])
def test_what_cannot_be_followed_is_refused(broken: dict[str, Any]) -> None:
    plain = {**as_json(document()), "schema": 9, **broken} if broken else {"schema": 9}
    with pytest.raises(InvalidDocument):
        lowered_as_in(json.dumps(plain).encode(), document())


def test_a_lower_of_a_guard_keeps_what_a_newer_release_wrote() -> None:
    read = decode(newer(document(), {"mood": "good"}, schema=SCHEMA))
    assert isinstance(read, RouteDocument)
    lowered = next_document(read, Lower("credit", "2", 1, "errors", {"odds": 1e6}, 0.0), CHANGE_ID)
    assert isinstance(lowered, RouteDocument)
    assert all(place.get("mood") == "good" for place in objects(as_json(lowered))[:-1])
