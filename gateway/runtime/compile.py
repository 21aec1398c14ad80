"""A document to a compiled route: arms whose answers already exist, beside the plan that picks one."""

from collections.abc import Callable, Mapping, Sequence

from gateway.backends.registry import BackendKey, Registry, Slot
from gateway.metrics.ledger import Ledger
from gateway.runtime.arms import Arm, Evidence
from gateway.runtime.contracts import ContractCheck
from gateway.runtime.promises import slo_objectives
from gateway.runtime.shadows import CompiledShadow, ShadowEvidence
from gateway.runtime.stand_ins import NOBODY, StandIns, stand_ins
from routing.analysis.objective import Objective
from routing.document import RouteDocument
from routing.split import SplitPlan, split_plan
from routing.table import Shadow

MIN_ATTEMPT_S = 0.25  # a canary that may be retried gets at least this, if half the deadline allows
THRESHOLDS_AN_ATTEMPT = 4


class CompiledRoute:
    """One route, ready to serve.

    Attributes:
        arms: In the order of the document's variants, as the plan's indices say.
        by_version: Arms of variants and shadows, with the backends that the document names.
        stand_ins: What answers meanwhile for versions whose backends are not ready yet.
        stable: The arm that answers as stable, itself or a stand-in.
        shadows: Where copies go.
        key_sources: ``(is_cookie, name)`` in order, names lower-case for headers.
        attempt_cap_s: Longest time of a canary's attempt that may be retried; ``None``: half the remaining time.
        times: Times of its requests, and what the gateway adds to them.
        users: Requests that still hold this route.
    """

    __slots__ = (
        "_on_idle",
        "arms",
        "attempt_cap_s",
        "by_version",
        "document",
        "enforce",
        "has_latency_slo",
        "key_sources",
        "model",
        "plan",
        "retired",
        "retries",
        "shadows",
        "side_effects",
        "slots",
        "stable",
        "stand_ins",
        "times",
        "users",
    )

    def __init__(
        self,
        document: RouteDocument,
        plan: SplitPlan,
        arms: list[Arm],
        by_version: Mapping[str, Arm],
        stand_ins: StandIns,
        shadows: Sequence[CompiledShadow],
        on_idle: Callable[["CompiledRoute"], None],
        ledger: Ledger,
    ) -> None:
        route = document.route
        self.model = route.model
        self.document = document
        self.plan = plan
        self.arms = arms
        self.by_version = by_version
        self.stand_ins = stand_ins
        self.stable = stand_ins.stable or by_version[route.stable]
        self.shadows = tuple(shadows)
        self.slots: list[Slot] = [
            *(arm.slot for arm in by_version.values()),
            *(arm.slot for arm in stand_ins.all()),
            *(s.slot for s in shadows),
        ]
        self.key_sources = [_key_source(source) for source in (route.sticky.by if route.sticky else ())]
        self.retries = route.on_failure == "retry_stable" and not route.side_effects
        self.side_effects = route.side_effects
        self.enforce = route.enforce
        latency = route.slo.latency if route.slo else None
        self.has_latency_slo = latency is not None
        self.attempt_cap_s = (
            max(THRESHOLDS_AN_ATTEMPT * latency.largest_ms() / 1000, MIN_ATTEMPT_S) if latency else None
        )
        thresholds_s = _thresholds_s(slo_objectives(route.slo))
        self.times = ledger.times(route.model, thresholds_s)
        self.users = 0
        self.retired = False
        self._on_idle = on_idle

    def pinned(self, version: str) -> Arm | None:
        """The arm for requests that name a version."""
        return self.stand_ins.by_version.get(version) or self.by_version.get(version)

    @property
    def is_overdue(self) -> bool:
        """Whether a version is ready for which something stands in."""
        stable = self.by_version[self.document.route.stable]
        return (self.stand_ins.stable is not None and stable.slot.is_ready) or any(
            self.by_version[version].slot.is_ready for version in self.stand_ins.by_version
        )

    def retire(self) -> None:
        """Another compiled route serves now; backends are given back when the last request has left."""
        self.retired = True
        self.look_idle()

    def look_idle(self) -> None:
        """A request has let go of this route, which serves no more."""
        if self.users == 0:
            self._on_idle(self)


def sticky_key(route: CompiledRoute, headers: Mapping[bytes, bytes]) -> bytes | None:
    """The first sticky key that a request carries; ``None`` makes it an independent draw."""
    for is_cookie, name in route.key_sources:
        value = _cookie(headers.get(b"cookie", b""), name) if is_cookie else headers.get(name)
        if value:
            return value
    return None


def _cookie(header: bytes, name: bytes) -> bytes | None:
    for part in header.split(b";"):
        found, _, value = part.strip().partition(b"=")
        if found == name:
            return value.strip()
    return None


def compile_route(
    document: RouteDocument,
    previous: CompiledRoute | None,
    registry: Registry,
    ledger: Ledger,
    *,
    opaque: bool,
    now_s: float = 0.0,
    is_alone: bool = True,
) -> CompiledRoute:
    """Compile a document, carrying over the evidence of every version whose epoch goes on; a new one begins now.

    What served before stands in for versions whose backends are not ready yet. ``is_alone``: no other worker or gateway
    serves this route.
    """
    route = document.route
    promises = slo_objectives(route.slo)
    weights = route.weights()

    def arm_of(version: str, role: str, key: BackendKey, evidence: Evidence, weight_ppm: int) -> Arm:
        slot, revision = registry.acquire(key), document.revision
        return Arm(route.model, version, role, slot, evidence, weight_ppm=weight_ppm, revision=revision, opaque=opaque)

    by_version: dict[str, Arm] = {}
    for version in route.versions():
        key = BackendKey(route.model, version, route.backend(version))
        role = "stable" if version == route.stable else "canary" if version in weights else "pinned"
        evidence = _evidence(document, version, previous, promises, ledger, now_s, is_alone=is_alone)
        by_version[version] = arm_of(version, role, key, evidence, weights.get(version, 0))

    def stand_in(arm: Arm, served: Arm, evidence: Evidence) -> Arm:
        return arm_of(served.version, arm.role, served.slot.key, evidence, arm.weight_ppm)

    standing = stand_ins(by_version, route.stable, previous, stand_in) if previous else NOBODY
    stable = standing.stable or by_version[route.stable]
    for version in weights:
        if version != route.stable:
            override = document.guard.overridden.get(version)
            accepted = override.breaks if override else ()
            by_version[version].contract = ContractCheck(stable.slot, by_version[version].slot, accepted)
    arms = [stable if version == route.stable else by_version[version] for version in weights]
    plan = split_plan(document, {version: index for index, version in enumerate(weights)})

    def give_back(compiled: CompiledRoute) -> None:
        for slot in compiled.slots:
            registry.release(slot)

    shadows = [_shadow(document, shadow, stable, previous, registry, now_s) for shadow in route.shadows]
    return CompiledRoute(document, plan, arms, by_version, standing, shadows, give_back, ledger)


def _shadow(
    document: RouteDocument,
    shadow: Shadow,
    stable: Arm,
    previous: CompiledRoute | None,
    registry: Registry,
    now_s: float,
) -> CompiledShadow:
    """Compile one shadow; its evidence goes on while its epoch is the same, and what answers beside it."""
    route = document.route
    epoch = document.epoch.get(shadow.version, 0)
    beside = (stable.version, stable.slot.key.spec)
    evidence = ShadowEvidence(epoch, beside, since_s=now_s)
    for before in previous.shadows if previous else ():
        if (before.version, before.evidence.epoch, before.evidence.stable) == (shadow.version, epoch, beside):
            evidence = before.evidence
    slot = registry.acquire(BackendKey(route.model, shadow.version, route.backend(shadow.version), is_shadow=True))
    return CompiledShadow(document, shadow, slot, evidence)


def _evidence(
    document: RouteDocument,
    version: str,
    previous: CompiledRoute | None,
    promises: tuple[Objective, ...],
    ledger: Ledger,
    now_s: float,
    *,
    is_alone: bool,
) -> Evidence:
    epoch = document.epoch.get(version, 0)
    before = previous.by_version.get(version) if previous else None
    was_promoted_or_demoted = before is not None and before.is_stable != (version == document.route.stable)
    if before is not None and before.evidence.epoch == epoch and not was_promoted_or_demoted:
        return before.evidence
    row = ledger.version(document.model, version, _thresholds_s(promises))
    return Evidence(epoch, promises, row, since_s=now_s, is_alone=is_alone)


def _thresholds_s(promises: tuple[Objective, ...]) -> list[float]:
    return [promise.threshold_s for promise in promises if promise.threshold_s is not None]


def _key_source(source: str) -> tuple[bool, bytes]:
    kind, _, name = source.partition(":")
    is_cookie = kind == "cookie"
    return is_cookie, name.encode() if is_cookie else name.lower().encode()
