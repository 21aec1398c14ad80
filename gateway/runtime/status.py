"""What a route looks like from inside one worker, as plain data that adds up over workers."""

from typing import Any

from gateway.runtime.arms import Arm
from gateway.runtime.compile import CompiledRoute
from gateway.runtime.idle import idle_warnings
from gateway.runtime.shadows import CompiledShadow
from gateway.runtime.totals import arm_counts, arm_place, shadow_counts, shadow_place


def route_facts(route: CompiledRoute, now_s: float) -> dict[str, Any]:
    """Per variant: state, counters, latencies, guard; per shadow: copies, pairs. ``summed.py`` makes a status of it."""
    return {
        **_of_route(route),
        "variants": [_arm(route, arm, now_s) for arm in route.by_version.values()],
        "shadows": [_shadow(route.model, shadow, now_s) for shadow in route.shadows],
    }


def route_signs(route: CompiledRoute, now_s: float) -> dict[str, Any]:
    """The part of it that ``warnings.py`` looks at."""
    return {
        **_of_route(route),
        "variants": [_signs(route, arm, now_s) for arm in route.by_version.values()],
        "shadows": [_shadow_signs(shadow, now_s) for shadow in route.shadows],
    }


def _of_route(route: CompiledRoute) -> dict[str, Any]:
    return {
        "model": route.model,
        "revision": route.document.revision,
        "idle": list(idle_warnings(route.document)),
    }


def _signs(route: CompiledRoute, arm: Arm, now_s: float) -> dict[str, Any]:
    evidence, backend = arm.evidence, arm.slot.backend
    last_s = evidence.counters.last_drawn_s
    plain: dict[str, Any] = {
        "version": arm.version,
        "role": arm.role,
        "weight_ppm": arm.weight_ppm,
        "epoch": evidence.epoch,
        "state": backend.state.value,
        "reason": backend.reason,
        "note": getattr(backend, "note", ""),
        "is_ready": arm.slot.is_ready,
        "stands_in": route.stand_ins.sentence(arm),
        "idle_s": None if last_s is None else now_s - last_s,
        "age_s": now_s - evidence.since_s,
        "unjudged_s": None if arm.is_stable or not evidence.objectives else evidence.unjudged_s(now_s),
        "lowered": evidence.lowered,
        "alarm": evidence.alarm,
        "contract": arm.contract.as_json() if arm.contract else None,
    }
    if instances := getattr(backend, "instance_status", None):
        plain["instances"] = instances()
    return plain


def _arm(route: CompiledRoute, arm: Arm, now_s: float) -> dict[str, Any]:
    evidence = arm.evidence
    plain = {
        **_signs(route, arm, now_s),
        "place": arm_place(arm),
        **arm_counts(evidence),
        "would_have_flipped": evidence.would_have_flipped,
    }
    if arm.is_stable:
        plain["evidence"] = {o.name: evidence.merged.evidence(o.name) for o in evidence.objectives}
    else:
        plain["guard"] = evidence.detector.evidence()
    return plain


def _shadow_signs(shadow: CompiledShadow, now_s: float) -> dict[str, Any]:
    evidence, backend = shadow.evidence, shadow.slot.backend
    return {
        "version": shadow.version,
        "sample_ppm": shadow.sample_ppm,
        "epoch": evidence.epoch,
        "state": backend.state.value,
        "reason": backend.reason,
        "sent": evidence.sent,
        "not_sent": dict(evidence.not_sent),
        "idle_s": None if evidence.last_sent_s is None else now_s - evidence.last_sent_s,
        "age_s": now_s - evidence.since_s,
    }


def _shadow(model: str, shadow: CompiledShadow, now_s: float) -> dict[str, Any]:
    return {
        **_shadow_signs(shadow, now_s),
        "place": shadow_place(model, shadow),
        **shadow_counts(shadow.evidence),
    }
