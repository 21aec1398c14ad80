"""The next document: every change of a route, by a person or by a guard, is made here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from routing.document import DeletedRoute, Document, Guard, Intervals, Latch, Override, RouteDocument, utc
from routing.errors import InvalidDocument, NothingToFlip, Problem, RolloutRunning, RouteNotFound, VersionLatched
from routing.intervals import redraw
from routing.table import Route, Variant


@dataclass(frozen=True, slots=True)
class Replace:
    """Create the route or put ``route`` in place of the stored one. Restoring is replacing by an older route.

    Attributes:
        overrides: By version, breaks of stable's contract that a person accepts with this edit.
    """

    route: Route
    overrides: Mapping[str, Override] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the route of ``model``; its revision counter and latches stay."""

    model: str


@dataclass(frozen=True, slots=True)
class Flip:
    """A person sends the weight of ``version``, or of all canaries, to stable and latches it."""

    model: str
    version: str | None
    reason: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Lower:
    """A guard sends the weight of ``version`` to stable, unless its epoch has passed."""

    model: str
    version: str
    epoch: int
    reason: str
    evidence: Any
    at_s: float


@dataclass(frozen=True, slots=True)
class Release:
    """A person clears the latch of ``version``, or all latches; weights stay where the flip left them."""

    model: str
    version: str | None
    reason: str


Change = Replace | Delete | Flip | Lower | Release


def next_document(current: Document | None, change: Change, change_id: str) -> Document | None:
    """Apply a change.

    Args:
        current: What the store holds, ``None`` when it never held this route.
        change: What should happen.
        change_id: Name of the change, 128 bits in hex.

    Returns:
        The next document, or ``None`` when the change would change nothing: then no revision is made.

    Raises:
        RouteNotFound: There is no route to act on.
        VersionLatched: A latched version would get weight or become stable.
        RolloutRunning: Weights would change under a running rollout.
        NothingToFlip: The version to flip is stable or no variant, or there is no canary.
        InvalidDocument: A version would own too many pieces of the key space.
    """
    if isinstance(change, Replace):
        return _replace(current, change, change_id)
    if not isinstance(current, RouteDocument):
        raise RouteNotFound(change.model)
    match change:
        case Delete():
            return DeletedRoute(
                revision=current.revision + 1,
                change_id=change_id,
                model=current.model,
                guard=Guard(latched=current.guard.latched),
            )
        case Flip():
            versions = _flip_targets(current, change.version)
            latch = Latch(at=utc(change.at_s), reason=change.reason)
            return _to_stable(current, versions, latch, change_id)
        case Lower():
            if current.epoch.get(change.version) != change.epoch or change.version == current.route.stable:
                return None
            latch = Latch(at=utc(change.at_s), reason=change.reason, evidence=change.evidence)
            return _to_stable(current, (change.version,), latch, change_id)
        case Release():
            return _release(current, change.version, change_id)


def _replace(current: Document | None, change: Replace, change_id: str) -> RouteDocument | None:
    route = change.route
    guard = _guard(current, change)
    _refuse_latched(route, guard)
    revision = current.revision + 1 if current else 1
    if not isinstance(current, RouteDocument):
        pieces = redraw({}, route.stable, route.stable, route.weights())
        epoch = dict.fromkeys(route.versions(), revision)
        return RouteDocument(
            revision=revision,
            change_id=change_id,
            route=route,
            intervals=Intervals(pieces=pieces),
            epoch=epoch,
            guard=guard,
        )
    old = current.route
    if route == old and guard == current.guard:
        return None
    if current.rollout is not None and (route.weights(), route.stable) != (old.weights(), old.stable):
        raise RolloutRunning(route.model)
    redrawn = _salt(route) != _salt(old)
    pieces = (
        redraw({}, route.stable, route.stable, route.weights())
        if redrawn
        else redraw(current.intervals.pieces, old.stable, route.stable, route.weights())
    )
    return current.model_copy(
        update={
            "revision": revision,
            "change_id": change_id,
            "route": route,
            "intervals": current.intervals.model_copy(update={"pieces": pieces}),
            "epoch": _epochs(current, route, revision, all_new=redrawn or route.slo != old.slo),
            "guard": guard,
        }
    )


def _guard(current: Document | None, change: Replace) -> Guard:
    """Latches as they are; what was accepted of a version's contract goes with the version, and with its build."""
    if current is None:
        return Guard(overridden=dict(change.overrides))
    kept: dict[str, Override] = {}
    if isinstance(current, RouteDocument):
        route, old = change.route, current.route
        kept = {
            version: override
            for version, override in current.guard.overridden.items()
            if version in route.weights() and route.backend(version) == old.backend(version)
        }
    return Guard(latched=current.guard.latched, overridden={**kept, **change.overrides})


def _refuse_latched(route: Route, guard: Guard) -> None:
    weights = route.weights()
    for version in guard.latched:
        if weights.get(version) or version == route.stable:
            raise VersionLatched(route.model, version)


def _salt(route: Route) -> str:
    return (route.sticky.salt if route.sticky else None) or route.model


def _epochs(current: RouteDocument, route: Route, revision: int, *, all_new: bool) -> dict[str, int]:
    """Epochs after an edit. A bump is the new revision, so an epoch never comes back.

    Stable's own share rises with every flip; that makes its evidence no less fit, so it goes on.
    """
    old = current.route
    before, after = old.weights(), route.weights()
    return {
        version: revision
        if all_new
        or version not in current.epoch
        or (after.get(version, 0) > before.get(version, 0) and not version == old.stable == route.stable)
        or route.backend(version) != old.backend(version)
        else current.epoch[version]
        for version in route.versions()
    }


def _flip_targets(current: RouteDocument, version: str | None) -> tuple[str, ...]:
    route = current.route
    if version is None:
        if targets := route.canaries():
            return targets
        raise NothingToFlip(f"route {route.model!r} has no canary with weight: all traffic is on {route.stable!r}")
    if version == route.stable:
        raise NothingToFlip(f"version {version!r} is stable: a flip sends weight to it, never away from it")
    if version not in route.weights():
        raise NothingToFlip(f"version {version!r} is no variant of {route.model!r}")
    return (version,)


def _to_stable(current: RouteDocument, versions: Iterable[str], latch: Latch, change_id: str) -> RouteDocument | None:
    """Weights of ``versions`` to stable and their latches, in one document."""
    route = current.route
    weights = route.weights()
    fresh = [v for v in versions if v not in current.guard.latched]
    if not fresh and not any(weights.get(v) for v in versions):
        return None
    for version in versions:
        weights[route.stable] += weights.pop(version, 0)
    variants = tuple(Variant(version=v.version, weight_ppm=weights.get(v.version, 0)) for v in route.variants)
    lowered = route.model_copy(update={"variants": variants})
    revision = current.revision + 1
    pieces = redraw(current.intervals.pieces, route.stable, route.stable, lowered.weights())
    latched = current.guard.latched | dict.fromkeys(fresh, latch)
    return current.model_copy(
        update={
            "revision": revision,
            "change_id": change_id,
            "route": lowered,
            "intervals": current.intervals.model_copy(update={"pieces": pieces}),
            "epoch": _epochs(current, lowered, revision, all_new=False),
            "guard": current.guard.model_copy(update={"latched": latched}),
        }
    )


def _release(current: RouteDocument, version: str | None, change_id: str) -> RouteDocument | None:
    latched = current.guard.latched
    if version is not None and version not in latched and version not in current.route.versions():
        raise InvalidDocument(
            [Problem("/version", "unknown_version", f"version {version!r} is not in the route of {current.model!r}")]
        )
    released = [v for v in latched if version in (None, v)]
    if not released:
        return None
    revision = current.revision + 1
    return current.model_copy(
        update={
            "revision": revision,
            "change_id": change_id,
            "guard": current.guard.model_copy(
                update={"latched": {v: latch for v, latch in latched.items() if v not in released}}
            ),
            "epoch": current.epoch | {v: revision for v in released if v in current.epoch},
        }
    )
