"""What a route looks like from inside a worker, as plain data."""

from typing import Any

from gateway.runtime.arms import Arm
from gateway.runtime.compile import CompiledRoute
from gateway.runtime.idle import idle_warnings
from gateway.runtime.shadows import CompiledShadow

IDLE_S = 60.0
QUANTILES = (0.5, 0.9, 0.99)


def route_status(route: CompiledRoute, now_s: float) -> dict[str, Any]:
    """Per variant: state, counters, latency, guard; per shadow: copies, pairs; and what to be warned of."""
    arms = list(route.by_version.values())
    return {
        "model": route.model,
        "revision": route.document.revision,
        "variants": [_arm(arm) for arm in arms],
        "shadows": [shadow.status() for shadow in route.shadows],
        "warnings": [
            *(warning for arm in arms for warning in _warnings(arm, now_s)),
            *(warning for shadow in route.shadows for warning in _idle(shadow, now_s)),
            *idle_warnings(route.document),
        ],
    }


def _arm(arm: Arm) -> dict[str, Any]:
    evidence, backend = arm.evidence, arm.slot.backend
    quantiles = {f"p{q * 100:g}_ms": evidence.histogram.quantile(q) for q in QUANTILES}
    plain: dict[str, Any] = {
        "version": arm.version,
        "role": arm.role,
        "weight_ppm": arm.weight_ppm,
        "epoch": evidence.epoch,
        "state": backend.state.value,
        "reason": backend.reason,
        "note": getattr(backend, "note", ""),
        "counters": evidence.counters.as_json(),
        "latency": {
            "count": evidence.histogram.count,
            **{name: None if value is None else round(value * 1000, 3) for name, value in quantiles.items()},
        },
    }
    if instances := getattr(backend, "instance_status", None):
        plain["instances"] = instances()
    if arm.is_stable:
        plain["evidence"] = {o.name: evidence.merged.evidence(o.name) for o in evidence.objectives}
    else:
        plain |= {
            "guard": evidence.detector.evidence(),
            "lowered": evidence.lowered,
            "alarm": evidence.alarm,
            "would_have_flipped": evidence.would_have_flipped,
        }
    return plain


def _warnings(arm: Arm, now_s: float) -> list[str]:
    found = []
    if not arm.slot.is_ready:
        found.append(f"version {arm.version!r} is not ready: {arm.slot.backend.reason}")
    elif instances := getattr(arm.slot.backend, "instance_status", None):
        down = [each["reason"] for each in instances() if each["reason"]]
        found += [f"an instance of version {arm.version!r} is not ready: {reason}" for reason in down]
    if note := getattr(arm.slot.backend, "note", ""):
        found.append(f"version {arm.version!r} {note}")
    if arm.evidence.alarm:
        found.append(f"version {arm.version!r} tripped and was not lowered: {arm.evidence.alarm}")
    if arm.evidence.lowered and arm.weight_ppm:
        found.append(f"version {arm.version!r} was lowered here and the store does not say so yet")
    last_s = arm.evidence.counters.last_drawn_s
    if arm.role == "canary" and arm.weight_ppm and not arm.evidence.lowered:
        if last_s is None:
            found.append(f"canary {arm.version!r} has seen no request in this epoch")
        elif now_s - last_s > IDLE_S:
            found.append(f"canary {arm.version!r} has seen no request for {now_s - last_s:.0f} s")
    return found


def _idle(shadow: CompiledShadow, now_s: float) -> list[str]:
    """A shadow that gets nothing proves nothing."""
    evidence = shadow.evidence
    if not shadow.sample_ppm or (evidence.last_sent_s is not None and now_s - evidence.last_sent_s <= IDLE_S):
        return []
    reasons = ", ".join(f"{count} {reason}" for reason, count in evidence.not_sent.items())
    why = f"; not sent: {reasons}" if reasons else ""
    since = "in this epoch" if evidence.last_sent_s is None else f"for {now_s - evidence.last_sent_s:.0f} s"
    return [f"shadow {shadow.version!r} is configured but idle: no copy was sent {since}{why}"]
