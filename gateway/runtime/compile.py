"""A document to a compiled route: arms whose answers already exist, beside the plan that picks one."""

from collections.abc import Callable, Mapping, Sequence

from gateway.backends.registry import BackendKey, Registry, Slot
from gateway.metrics.ledger import Ledger
from gateway.runtime.arms import Arm, Evidence
from gateway.runtime.contracts import ContractCheck
from gateway.runtime.promises import slo_objectives
from gateway.runtime.shadows import CompiledShadow, ShadowEvidence
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
        by_version: Arms of variants and shadows, for pins.
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
        "times",
        "users",
    )

    def __init__(
        self,
        document: RouteDocument,
        plan: SplitPlan,
        arms: list[Arm],
        by_version: Mapping[str, Arm],
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
        self.stable = by_version[route.stable]
        self.shadows = tuple(shadows)
        self.slots: list[Slot] = [*(arm.slot for arm in by_version.values()), *(s.slot for s in shadows)]
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

    ``is_alone``: no other worker or gateway serves this route.
    """
    route = document.route
    promises = slo_objectives(route.slo)
    weights = route.weights()
    by_version: dict[str, Arm] = {}
    for version in route.versions():
        slot = registry.acquire(BackendKey(route.model, version, route.backend(version)))
        role = "stable" if version == route.stable else "canary" if version in weights else "pinned"
        by_version[version] = Arm(
            route.model,
            version,
            role,
            slot,
            _evidence(document, version, previous, promises, ledger, now_s, is_alone=is_alone),
            weight_ppm=weights.get(version, 0),
            revision=document.revision,
            opaque=opaque,
        )
    stable = by_version[route.stable]
    for version in weights:
        if version != route.stable:
            override = document.guard.overridden.get(version)
            accepted = override.breaks if override else ()
            by_version[version].contract = ContractCheck(stable.slot, by_version[version].slot, accepted)
    arms = [by_version[version] for version in weights]
    plan = split_plan(document, {version: index for index, version in enumerate(weights)})

    def give_back(compiled: CompiledRoute) -> None:
        for slot in compiled.slots:
            registry.release(slot)

    shadows = [_shadow(document, shadow, previous, registry, now_s) for shadow in route.shadows]
    return CompiledRoute(document, plan, arms, by_version, shadows, give_back, ledger)


def _shadow(
    document: RouteDocument, shadow: Shadow, previous: CompiledRoute | None, registry: Registry, now_s: float
) -> CompiledShadow:
    """Compile one shadow; its evidence goes on while its epoch and stable's version and backend are the same."""
    route = document.route
    epoch = document.epoch.get(shadow.version, 0)
    stable = (route.stable, route.backend(route.stable))
    evidence = ShadowEvidence(epoch, stable, since_s=now_s)
    for before in previous.shadows if previous else ():
        if (before.version, before.evidence.epoch, before.evidence.stable) == (shadow.version, epoch, stable):
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
