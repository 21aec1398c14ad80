"""What an operator should look at in a route: one warning for each thing, whatever tells of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IDLE_S = 300.0  # the setting's default
SAID_CHARS = 200  # of a sentence that other gateways are told
OFTEN_S = 60.0  # a guard that saw something in this time is not idle

VARIANT_IDLE, SHADOW_IDLE, GUARD_IDLE, FUSE_ALONE = "variant_idle", "shadow_idle", "guard_idle", "fuse_alone"
LOADING, UNREACHABLE, NOTE = "loading", "unreachable", "note"
ALARM, LOWERED, CONTRACT, UNCHECKED, REFUSED = "alarm", "lowered", "contract", "unchecked", "refused"
KINDS = (
    *(VARIANT_IDLE, SHADOW_IDLE, GUARD_IDLE, FUSE_ALONE, LOADING, UNREACHABLE, NOTE),
    *(ALARM, LOWERED, CONTRACT, UNCHECKED, REFUSED),
)

Facts = Mapping[str, Any]
NOBODY: Mapping[str, Facts] = {}


@dataclass(frozen=True, slots=True)
class RouteWarning:
    """One thing to look at.

    Attributes:
        kind: One of ``KINDS``.
        version: Whom it is about; empty for the whole route.
        sentence: For people; numbers in it may change while the warning stays the same.
        about: Which of several things of this kind and version, such as a server.
    """

    kind: str
    version: str
    sentence: str
    about: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same warning as one seen before."""
        return self.kind, self.version, self.about


def route_warnings(
    facts: Sequence[Facts],
    merged: Mapping[str, Facts],
    joint: Mapping[str, Facts] = NOBODY,
    *,
    idle_s: float = IDLE_S,
) -> list[RouteWarning]:
    """Of one route over all workers; nothing is said twice.

    Args:
        facts: What each worker says, at least one.
        merged: By version, what the detector over all workers says.
        joint: By version, what the judge over all gateways says.
        idle_s: What is configured and has seen nothing for so long is idle.
    """
    newest = max(facts, key=lambda one: int(one["revision"]))  # an edit may be on its way to the others
    found: list[RouteWarning] = []
    for arm in newest["variants"]:
        arms = same(facts, "variants", arm)
        found += _of_version(arms, [of.get(arm["version"], {}) for of in (merged, joint)], idle_s)
    down = {warning.version for warning in found if warning.kind in (LOADING, UNREACHABLE) and not warning.about}
    for shadow in newest["shadows"]:
        found += _of_shadow(same(facts, "shadows", shadow), idle_s, is_known_down=shadow["version"] in down)
    found += [RouteWarning(kind, version, sentence) for kind, version, sentence in newest["idle"]]
    return list({warning.key: warning for warning in found}.values())


def unready(warnings: Iterable[RouteWarning]) -> dict[str, str]:
    """By version, why stable answers its share; a sentence of at most ``SAID_CHARS``."""
    kinds = (LOADING, UNREACHABLE, CONTRACT)
    return {w.version: w.sentence[:SAID_CHARS] for w in warnings if w.kind in kinds and not w.about}


def same(facts: Sequence[Facts], part: str, wanted: Facts) -> list[Facts]:
    """What all workers say of one version in one epoch; the first is the newest's."""
    found = [
        item
        for one in facts
        for item in one[part]
        if item is not wanted and (item["version"], item["epoch"]) == (wanted["version"], wanted["epoch"])
    ]
    return [wanted, *found]


def _of_version(arms: Sequence[Facts], judged: Sequence[Facts], idle_s: float) -> Iterator[RouteWarning]:
    version, unready = arms[0]["version"], [arm for arm in arms if not arm["is_ready"]]
    lowered = any(arm["lowered"] for arm in arms)
    current = [item for item in judged if item.get("epoch", arms[0]["epoch"]) == arms[0]["epoch"]]
    alarm = next((item["alarm"] for item in [*arms, *current] if item.get("alarm")), "")
    broken = next((arm["contract"] for arm in arms if _verdict(arm) == "broken"), None)
    if unready:
        yield _not_ready(version, unready)
    else:
        yield from _instances(version, arms)
    for note in dict.fromkeys(arm["note"] for arm in arms if arm["note"]):
        yield RouteWarning(NOTE, version, f"version {version!r} {note}", note)
    if alarm:
        yield RouteWarning(ALARM, version, f"version {version!r} tripped and was not lowered: {alarm}")
    if not arms[0]["weight_ppm"] or arms[0]["role"] == "stable":
        return
    if lowered:
        yield RouteWarning(LOWERED, version, f"version {version!r} was lowered here and the store does not say so yet")
    elif broken is not None:
        yield _held(version, broken)
    elif not unready:
        if any(_verdict(arm) == "unchecked" for arm in arms):
            said = f"version {version!r} could not be held against stable's contract yet"
            yield RouteWarning(UNCHECKED, version, said)
        yield from _idle(version, arms, idle_s)


def _not_ready(version: str, unready: Sequence[Facts]) -> RouteWarning:
    failed = next((arm for arm in unready if arm["state"] != "loading"), None)
    kind = LOADING if failed is None else UNREACHABLE
    said = f"version {version!r} is not ready: {(failed or unready[0])['reason']}"
    meanwhile = [arm.get("stands_in", "") for arm in unready]
    return RouteWarning(kind, version, f"{said}; {meanwhile[0]}" if all(meanwhile) else said)


def _instances(version: str, arms: Sequence[Facts]) -> Iterator[RouteWarning]:
    """Servers of a version that is ready; one warning each, whoever misses it."""
    for arm in arms:
        for instance in arm.get("instances", ()):
            if instance["reason"]:
                said = f"an instance of version {version!r} is not ready: {instance['reason']}"
                yield RouteWarning(UNREACHABLE, version, said, instance["url"])


def _verdict(arm: Facts) -> str:
    return str((arm.get("contract") or {}).get("verdict", ""))


def _held(version: str, contract: Facts) -> RouteWarning:
    said = "; ".join(problem["message"] for problem in contract["breaks"])
    return RouteWarning(
        CONTRACT,
        version,
        f"version {version!r} breaks stable's contract and gets no traffic until that is accepted: {said}",
    )


def _idle(version: str, arms: Sequence[Facts], idle_s: float) -> Iterator[RouteWarning]:
    quiet_s = _quiet_s(arms)
    if quiet_s >= idle_s:
        said = f"canary {version!r} is configured but idle: it has seen no request for {quiet_s:.0f} s"
        yield RouteWarning(VARIANT_IDLE, version, said)
        return
    unjudged_s = min((arm["unjudged_s"] for arm in arms if arm["unjudged_s"] is not None), default=0.0)
    if unjudged_s >= idle_s and quiet_s < OFTEN_S:
        said = f"the guard of {version!r} is configured but idle: it has judged nothing for {unjudged_s:.0f} s"
        yield RouteWarning(GUARD_IDLE, version, said)


def _of_shadow(shadows: Sequence[Facts], idle_s: float, *, is_known_down: bool) -> Iterator[RouteWarning]:
    """A shadow that gets nothing proves nothing; where that is for its server, the server is the warning."""
    version, unready = shadows[0]["version"], [shadow for shadow in shadows if shadow["state"] != "ready"]
    if unready:
        if not is_known_down:
            yield _not_ready(version, unready)
        return
    not_sent = _added(shadow["not_sent"] for shadow in shadows)
    has_lost_all = bool(not_sent) and not any(shadow["sent"] for shadow in shadows)
    quiet_s = _quiet_s(shadows)
    if not shadows[0]["sample_ppm"] or (quiet_s < idle_s and not has_lost_all):
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in not_sent.items())
    why = f"; not sent: {reasons}" if reasons else ""
    said = f"shadow {version!r} is configured but idle: no copy was sent for {quiet_s:.0f} s{why}"
    yield RouteWarning(SHADOW_IDLE, version, said)


def _quiet_s(items: Sequence[Facts]) -> float:
    """Since the last request that any worker saw, or since it was configured where one has known it longest."""
    seen = [item["idle_s"] for item in items if item["idle_s"] is not None]
    return float(min([*seen, max(item["age_s"] for item in items)]))


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total
