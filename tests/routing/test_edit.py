"""What each change makes of a document."""

import json
from random import Random

import pytest

from routing.codec import as_json, decode, encode, lowered_as_in
from routing.document import DeletedRoute, Override, RouteDocument
from routing.edit import Delete, Flip, Lower, Release, Replace, next_document
from routing.errors import (
    InvalidDocument,
    NewerSchema,
    NothingToFlip,
    RolloutRunning,
    RouteNotFound,
    VersionLatched,
)
from routing.table import Route
from tests.builders import CHANGE_ID, document, route


def after(current: RouteDocument, change: Replace | Flip | Lower | Release) -> RouteDocument:
    following = next_document(current, change, CHANGE_ID)
    assert isinstance(following, RouteDocument)
    return following


def lower(version: str = "2", epoch: int = 1) -> Lower:
    return Lower("credit", version, epoch, "4 of 4 answers failed", {"odds": 1e6}, 0.0)


def test_a_lower_moves_weight_and_latches_in_one_document() -> None:
    lowered = after(document(), lower())
    assert lowered.route.weights() == {"1": 1_000_000, "2": 0}
    assert lowered.intervals.pieces == {}
    latch = lowered.guard.latched["2"]
    assert (latch.at, latch.evidence) == ("1970-01-01T00:00:00.000Z", {"odds": 1e6})


def test_a_lower_of_an_older_epoch_is_dropped() -> None:
    grown = document(route(weights={"1": 95, "2": 5}), route(weights={"1": 90, "2": 10}))
    assert grown.epoch["2"] == 2
    assert next_document(grown, lower(epoch=1), CHANGE_ID) is None


def test_a_guard_takes_one_version_a_person_takes_all_canaries() -> None:
    current = document(route(weights={"1": 80, "2": 10, "3": 10}))
    assert after(current, lower()).route.weights() == {"1": 900_000, "2": 0, "3": 100_000}
    flipped = after(current, Flip("credit", None, "because", 0.0))
    assert flipped.route.weights() == {"1": 1_000_000, "2": 0, "3": 0}
    assert set(flipped.guard.latched) == {"2", "3"}


@pytest.mark.parametrize(("version", "word"), [("1", "is stable"), ("9", "no variant")])
def test_stable_and_strangers_cannot_be_flipped(version: str, word: str) -> None:
    with pytest.raises(NothingToFlip, match=word):
        next_document(document(), Flip("credit", version, "because", 0.0), CHANGE_ID)


def test_without_a_canary_there_is_nothing_to_flip() -> None:
    with pytest.raises(NothingToFlip, match="no canary"):
        next_document(document(weights={"1": 100, "2": 0}), Flip("credit", None, "because", 0.0), CHANGE_ID)


def test_a_latched_version_gets_no_weight_and_never_becomes_stable() -> None:
    lowered = after(document(), lower())
    for edit in (route(), route(stable="2", weights={"1": 100, "2": 0})):
        with pytest.raises(VersionLatched):
            next_document(lowered, Replace(edit), CHANGE_ID)


def test_release_leaves_the_weights_and_opens_a_new_epoch() -> None:
    released = after(after(document(), lower()), Release("credit", None, "fixed"))
    assert released.guard.latched == {}
    assert released.route.weights() == {"1": 1_000_000, "2": 0}
    assert released.epoch["2"] == released.revision == 3
    assert after(released, Replace(route())).route.weights()["2"] == 50_000


def test_releasing_what_is_not_latched_changes_nothing_and_a_stranger_is_a_problem() -> None:
    assert next_document(document(), Release("credit", "2", "why not"), CHANGE_ID) is None
    with pytest.raises(InvalidDocument):
        next_document(document(), Release("credit", "9", "why not"), CHANGE_ID)


@pytest.mark.parametrize(
    ("edit", "bumped"),
    [
        (route(weights={"1": 90, "2": 10}), {"2"}),
        (route(weights={"1": 96, "2": 4}), set()),
        (route(sticky={"by": ["header:x"], "salt": "b"}), {"1", "2"}),
        (route(slo={"errors": {"max_rate": 0.1}}), {"1", "2"}),
        (route(backends={"2": {"kind": "oip", "url": "http://127.0.0.1:1"}}), {"2"}),
        (route(on_failure="pass"), set()),
    ],
)
def test_epochs_are_bumped_by_what_makes_old_evidence_unfit(edit: Route, bumped: set[str]) -> None:
    following = after(document(), Replace(edit))
    assert {v for v, e in following.epoch.items() if e == following.revision} == bumped


def test_a_write_that_changes_nothing_makes_no_revision() -> None:
    assert next_document(document(), Replace(route()), CHANGE_ID) is None


def test_a_deleted_route_keeps_its_revision_counter_and_latches() -> None:
    lowered = after(document(), lower())
    deleted = next_document(lowered, Delete("credit"), CHANGE_ID)
    assert isinstance(deleted, DeletedRoute)
    assert deleted.revision == 3
    assert decode(encode(deleted)) == deleted
    with pytest.raises(VersionLatched):
        next_document(deleted, Replace(route()), CHANGE_ID)
    again = next_document(deleted, Replace(route(weights={"1": 100, "2": 0})), CHANGE_ID)
    assert isinstance(again, RouteDocument)
    assert (again.revision, again.epoch["2"]) == (4, 4)


@pytest.mark.parametrize(
    "change", [Delete("credit"), Flip("credit", None, "", 0.0), lower(), Release("credit", None, "")]
)
def test_verbs_need_a_route(change: Delete | Flip | Lower | Release) -> None:
    with pytest.raises(RouteNotFound):
        next_document(None, change, CHANGE_ID)


def test_weights_are_a_running_rollouts() -> None:
    running = document().model_copy(update={"rollout": {"phase": "ramp"}})
    with pytest.raises(RolloutRunning):
        next_document(running, Replace(route(weights={"1": 90, "2": 10})), CHANGE_ID)
    assert after(running, Replace(route(on_failure="pass"))).rollout == {"phase": "ramp"}


def test_too_many_pieces_ask_for_a_new_salt() -> None:
    random = Random(1)
    versions = [str(n) for n in range(1, 21)]
    current = document(route(weights=dict.fromkeys(versions, 5)))
    refusal = None
    for _ in range(300):
        cuts = sorted(random.sample(range(1, 10_000), 19))
        weights = {v: (b - a) / 100 for v, a, b in zip(versions, [0, *cuts], [*cuts, 10_000], strict=True)}
        try:
            current = after(current, Replace(route(weights=weights)))
        except InvalidDocument as error:
            refusal = str(error)
            break
    assert refusal is not None
    assert "draw again with a new sticky salt" in refusal
    drawn_anew = after(current, Replace(route(sticky={"by": ["header:x"], "salt": "again"})))
    assert drawn_anew.intervals.pieces == {"2": ((0, 50_000),)}


def test_unknown_keys_of_a_newer_release_survive_an_edit() -> None:
    plain = as_json(document(shadows=[{"version": "3"}], backends={"2": {"kind": "onnx"}}))
    plain["mood"] = "good"
    plain["route"]["variants"][1]["zone"] = "eu"
    plain["route"]["backends"]["2"]["gpu"] = {"slices": 2}
    read = decode(json.dumps(plain).encode())
    assert isinstance(read, RouteDocument)
    edited = after(read, Replace(read.route.model_copy(update={"on_failure": "pass"})))
    again = as_json(edited)
    assert again["mood"] == "good"
    assert again["route"]["variants"][1] == {"version": "2", "weight_ppm": 50_000, "zone": "eu"}
    assert again["route"]["backends"]["2"]["gpu"] == {"slices": 2}
    assert decode(encode(edited)) == edited


def test_a_newer_schema_is_refused_but_its_weights_and_latches_apply() -> None:
    newer = encode(after(document(), lower())).replace(b'"schema":1', b'"schema":2')
    with pytest.raises(NewerSchema):
        decode(newer)
    followed = lowered_as_in(newer, document())
    assert followed.route.weights() == {"1": 1_000_000, "2": 0}
    assert followed.revision == 2
    assert "2" in followed.guard.latched


@pytest.mark.parametrize("data", [b"", b"[]", b'{"schema":1}', b"\xff\x00"])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidDocument):
        decode(data)


OVERRIDE = Override(at="", actor="olga", reason="known", breaks=("input 'x' is FP64, stable's is FP32",))


def test_an_override_stays_with_the_version_through_edits_flips_and_releases() -> None:
    current = after(document(), Replace(route(), {"2": OVERRIDE}))
    assert (current.revision, current.epoch) == (2, {"1": 1, "2": 1}), "an override alone is a revision"
    assert next_document(current, Replace(route(), {"2": OVERRIDE}), CHANGE_ID) is None
    for change in (Replace(route(on_failure="pass")), lower(), Release("credit", None, "fixed")):
        current = after(current, change)
        assert current.guard.overridden == {"2": OVERRIDE}
        assert decode(encode(current)) == current
    assert current.guard.latched == {}


def test_an_override_goes_with_the_version_its_backend_and_the_route() -> None:
    accepted = after(document(), Replace(route(), {"2": OVERRIDE}))
    assert after(accepted, Replace(route(weights={"1": 100}))).guard.overridden == {}
    assert after(accepted, Replace(route(backends={"2": {"kind": "onnx", "threads": 2}}))).guard.overridden == {}
    gone = next_document(accepted, Delete("credit"), CHANGE_ID)
    assert gone is not None
    assert gone.guard.overridden == {}
    assert "overridden" not in as_json(gone)["guard"]


def test_an_override_does_not_get_a_latched_version_weight() -> None:
    flipped = after(document(), lower())
    with pytest.raises(VersionLatched):
        next_document(flipped, Replace(route(), {"2": OVERRIDE}), CHANGE_ID)
