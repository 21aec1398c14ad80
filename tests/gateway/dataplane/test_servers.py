"""A version over its instances, as clients are told of it."""

from gateway.backends.inquiry import NOT_IN_TIME, Words
from gateway.dataplane.servers import added_up, over_instances
from gateway.protocol.words import numbers_of

PLACE = ("scale", "3")


def words(count: int | None = None, problem: str = "") -> Words:
    entry = {"name": "scale", "version": "3", "inference_count": count}
    return Words(0.0, {}, numbers_of([entry]) if count is not None else {}, problem)


def test_what_answers_is_added_up_and_what_does_not_is_named_without_an_address() -> None:
    refused = words(problem="refused connections: Connect call failed ('10.0.0.7', 8000)")
    told = added_up([words(3), refused, words(problem=NOT_IN_TIME), words(), words(4)], PLACE)
    assert (told["instances_asked"], told["instances_answered"], told["inference_count"]) == (5, 2, 7)
    assert [one.get("inference_count") for one in told["instances"]] == [3, None, None, None, 4]
    errors = [one["error"] for one in told["instances"] if "error" in one]
    assert errors == ["could not be asked", NOT_IN_TIME, "does not have the version"]


def test_one_ready_instance_makes_the_version_ready_and_the_others_are_named() -> None:
    assert over_instances([("READY", ""), ("READY", "")]) == {"state": "READY", "reason": ""}
    assert over_instances([("UNAVAILABLE", "unloaded"), ("READY", "")]) == {
        "state": "READY",
        "reason": "instance 0: UNAVAILABLE, unloaded",
    }
    assert over_instances([("UNAVAILABLE", "unloaded"), ("LOADING", "loading")])["state"] == "LOADING"
