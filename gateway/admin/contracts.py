"""Before an edit gives a version more of the traffic: does the version keep the contract that clients rely on?"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.errors import ContractBroken
from gateway.protocol.breaks import breaks
from gateway.protocol.shapes import Signature
from routing.document import Document, Override, RouteDocument
from routing.errors import Problem
from routing.table import Route

# Nobody could answer in its place while it is found out.
UNKNOWN_STABLE = Problem(
    "/contract",
    "unknown",
    "nobody knows yet what it takes and answers: give it a variant of weight 0, and make it stable when it is ready",
)
# By version and backend as JSON, what workers know of it: more than one where they have met different builds.
Known = Mapping[tuple[str, str], Sequence[Signature]]
Signatures = Callable[[str], Awaitable[Known]]


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of the check.

    Attributes:
        breaks: By version, what nobody has accepted yet.
        unchecked: Versions that cannot be compared now; workers do it once they can, and send no draws there before.
    """

    breaks: dict[str, list[Problem]] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)

    def refusal(self, route: Route) -> ContractBroken:
        """Why the edit cannot be made as it is."""
        order = list(route.weights())
        problems = {(f"/variants/{order.index(version)}", version): found for version, found in self.breaks.items()}
        return ContractBroken(route.model, problems)

    def overrides(self, at: str, actor: str, reason: str, before: Document | None) -> dict[str, Override]:
        """A person's word that accepts all of it, beside what was accepted before."""
        told = {}
        for version, found in self.breaks.items():
            said = dict.fromkeys([*_accepted(before, version), *(problem.message for problem in found)])
            told[version] = Override(at=at, actor=actor, reason=reason, breaks=tuple(said))
        return told

    def warnings(self) -> list[str]:
        """A sentence for each version that could not be compared."""
        return [
            f"the contract of version {version!r} is not known yet: it is held against stable's when it is ready, and "
            "stable answers its share until then"
            for version in self.unchecked
        ]


def check(before: Document | None, route: Route, known: Known, *, is_override: bool) -> Findings:
    """Hold every version that the edit trusts with more against the stable that clients know.

    Args:
        before: What is stored now.
        route: What shall be.
        known: Signatures of versions that are loaded somewhere.
        is_override: Look at every canary of ``route``, also those that do not gain.
    """
    findings = Findings()
    old = before.route if isinstance(before, RouteDocument) else None
    for stable_route, stable, version in _pairs(old, route, is_override=is_override):
        its, mine = _signatures(known, stable_route, stable), _signatures(known, route, version)
        becomes_stable = version == route.stable
        if becomes_stable and its and not mine:
            findings.breaks[version] = [UNKNOWN_STABLE]
        elif not its or not mine:
            findings.unchecked.append(version)
        same_build = old is not None and route.backend(version) == old.backend(version)
        accepted = _accepted(before, version) if same_build else ()
        found = {p.message: p for a in its for b in mine for p in breaks(a, b) if p.message not in accepted}
        if found:
            findings.breaks[version] = [*findings.breaks.get(version, ()), *found.values()]
    return findings


def _pairs(old: Route | None, new: Route, *, is_override: bool) -> Iterator[tuple[Route, str, str]]:
    """Which stable, as which route runs it, is compared with which version."""
    has_new_stable = old is not None and old.stable != new.stable
    if old is not None and has_new_stable:
        yield old, old.stable, new.stable
    for version in new.canaries():
        if is_override or has_new_stable or old is None or _gains(version, old, new):
            yield new, new.stable, version


def _gains(version: str, old: Route, new: Route) -> bool:
    more = new.weights()[version] > old.weights().get(version, 0)
    return more or new.backend(version) != old.backend(version)


def _signatures(known: Known, route: Route, version: str) -> Sequence[Signature]:
    return known.get((version, route.backend(version).model_dump_json()), ())


def _accepted(before: Document | None, version: str) -> Sequence[str]:
    override = before.guard.overridden.get(version) if before else None
    return override.breaks if override else ()
