"""Every thing to look at is exactly one warning."""

from typing import Any

from gateway.runtime.warnings import KINDS, route_warnings

KEPT = {"verdict": "kept", "breaks": []}
BROKEN = {"verdict": "broken", "breaks": [{"message": "output 'y' is FP64"}, {"message": "input 'x' is not there"}]}


def arm(version: str = "2", role: str = "canary", **parts: Any) -> dict[str, Any]:
    plain = {
        "version": version,
        "role": role,
        "weight_ppm": 50_000,
        "epoch": 1,
        "state": "ready",
        "reason": "",
        "note": "",
        "is_ready": True,
        "idle_s": 1.0,
        "age_s": 1000.0,
        "unjudged_s": 1.0,
        "lowered": False,
        "alarm": "",
        "contract": KEPT,
    }
    return plain | parts


def shadow(**parts: Any) -> dict[str, Any]:
    plain = {"version": "3", "sample_ppm": 1_000_000, "epoch": 1, "state": "ready", "reason": ""}
    return {**plain, "sent": 5, "not_sent": {}, "idle_s": 1.0, "age_s": 1000.0, **parts}


def facts(*arms: dict[str, Any], shadows: Any = (), idle: Any = ()) -> dict[str, Any]:
    return {"model": "credit", "revision": 3, "variants": list(arms), "shadows": list(shadows), "idle": list(idle)}


def kinds(*told: dict[str, Any], idle_s: float = 300.0) -> list[tuple[str, str]]:
    found = route_warnings(told, {}, idle_s=idle_s)
    assert all(warning.kind in KINDS for warning in found)
    assert len({warning.key for warning in found}) == len(found)
    return [(warning.kind, warning.version) for warning in found]


def test_what_does_well_is_no_warning() -> None:
    assert kinds(facts(arm("1", "stable", idle_s=None, contract=None), arm(), shadows=[shadow()])) == []


def test_a_canary_is_idle_when_no_worker_has_sent_it_anything_for_long_enough() -> None:
    quiet = arm(idle_s=400.0)
    assert kinds(facts(quiet)) == [("variant_idle", "2")]
    assert kinds(facts(quiet), idle_s=500.0) == []
    assert kinds(facts(quiet), facts(arm(idle_s=2.0))) == []
    assert kinds(facts(quiet), facts(quiet)) == [("variant_idle", "2")]


def test_the_time_counts_from_when_it_was_configured_where_a_worker_has_known_it_longest() -> None:
    new = arm(idle_s=None, age_s=10.0)
    assert kinds(facts(new)) == []
    assert kinds(facts(new), facts(arm(idle_s=None, age_s=301.0))) == [("variant_idle", "2")]


def test_a_stable_and_a_variant_without_weight_are_not_idle() -> None:
    assert kinds(facts(arm("1", "stable", idle_s=None, contract=None), arm(weight_ppm=0, idle_s=None))) == []


def test_a_guard_that_judges_nothing_while_requests_come_is_idle() -> None:
    assert kinds(facts(arm(unjudged_s=400.0))) == [("guard_idle", "2")]
    assert kinds(facts(arm(unjudged_s=400.0, idle_s=400.0))) == [("variant_idle", "2")]
    assert kinds(facts(arm(unjudged_s=None))) == []


def test_a_version_that_is_not_ready_is_one_warning_whatever_waits_for_it() -> None:
    down = {"state": "failed", "reason": "refused", "is_ready": False, "idle_s": None}
    assert kinds(facts(arm(**down), shadows=[shadow()])) == [("unreachable", "2")]
    assert kinds(facts(arm(**down)), facts(arm())) == [("unreachable", "2")]
    assert kinds(facts(arm(**{**down, "state": "loading"}))) == [("loading", "2")]
    assert kinds(facts(arm(**{**down, "state": "loading"})), facts(arm(**down))) == [("unreachable", "2")]
    dead = shadow(state="failed", reason="refused", sent=0, idle_s=None, not_sent={"not_ready": 2})
    assert kinds(facts(arm("3", "pinned", **down), shadows=[dead])) == [("unreachable", "3")]
    assert kinds(facts(arm("3", "pinned"), shadows=[dead])) == [("unreachable", "3")]


def test_each_server_of_a_version_is_one_warning() -> None:
    servers = [{"url": "http://a:1", "reason": "refused"}, {"url": "http://b:1", "reason": "slow"}]
    told = facts(arm(instances=[*servers, {"url": "http://c:1", "reason": ""}]))
    assert kinds(told, told) == [("unreachable", "2"), ("unreachable", "2")]


def test_a_shadow_that_gets_nothing_is_idle_and_at_once_where_every_copy_was_dropped() -> None:
    assert kinds(facts(shadows=[shadow(idle_s=400.0)])) == [("shadow_idle", "3")]
    assert kinds(facts(shadows=[shadow(idle_s=None, age_s=10.0, sent=0)])) == []
    (lost,) = route_warnings([facts(shadows=[shadow(idle_s=None, age_s=9.0, sent=0, not_sent={"too_large": 4})])], {})
    assert lost.kind == "shadow_idle"
    assert lost.sentence.endswith("not sent: 4 too_large")
    assert kinds(facts(shadows=[shadow(sample_ppm=0, idle_s=None)])) == []


def test_a_broken_contract_says_every_break_and_stands_alone() -> None:
    (warning,) = route_warnings([facts(arm(contract=BROKEN, idle_s=None)), facts(arm())], {})
    assert warning.kind == "contract"
    assert "output 'y' is FP64; input 'x' is not there" in warning.sentence


def test_what_could_not_be_compared_is_said_where_it_gets_traffic() -> None:
    unchecked = {"verdict": "unchecked", "breaks": []}
    assert kinds(facts(arm(contract=unchecked))) == [("unchecked", "2")]
    assert kinds(facts(arm(contract=unchecked, weight_ppm=0))) == []
    assert kinds(facts(arm(contract=unchecked, lowered=True))) == [("lowered", "2")]


def test_the_same_thing_told_by_the_document_and_by_the_workers_is_said_once() -> None:
    idle = [("shadow_idle", "3", "its sample is 0 %")]
    assert kinds(facts(shadows=[shadow(idle_s=400.0)], idle=idle)) == [("shadow_idle", "3")]


def test_what_stands_in_for_stable_is_told_where_it_does_so_in_every_worker() -> None:
    def unready(stands_in: str) -> dict[str, Any]:
        parts = {"state": "failed", "reason": "refused", "is_ready": False, "contract": None}
        return facts(arm("1", "stable", stands_in=stands_in, **parts))

    def said(*stands_in: str) -> list[str]:
        return [warning.sentence for warning in route_warnings([unready(one) for one in stands_in], {})]

    assert said("until it is, the other goes on") == [
        "version '1' is not ready: refused; until it is, the other goes on"
    ]
    assert said("until it is, the other goes on", "") == ["version '1' is not ready: refused"]
