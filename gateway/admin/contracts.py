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
OTHER_BACKEND = Problem(
    "/contract",
    "unknown",
    "nobody can find out what it takes and answers at its new backend: see that it is ready there",
)
MAX_DESCRIBED = 16  # versions that one edit asks for
Build = tuple[str, str]  # a version, and its backend as JSON
# What is known of each: more than one signature where workers have met different builds.
Told = Mapping[Build, Sequence[Signature]]
Signatures = Callable[[str], Awaitable[Told]]
Describe = Callable[[str, Sequence[Build]], Awaitable[Told]]


async def describe_nothing(_model: str, _wanted: Sequence[Build]) -> Told:
    """Of a process that can ask nobody."""
    return {}


class Unasked(Exception):
    """An edit needs to know versions that nobody was asked for yet."""

    def __init__(self, wanted: Sequence[Build]) -> None:
        super().__init__(wanted)
        self.wanted = wanted


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the versions of a model.

    Attributes:
        loaded: By the workers, of those that they have, or had, ready.
        described: Of others, found out for this edit.
        asked: For which that was tried.
    """

    loaded: Told
    described: Told = field(default_factory=dict)
    asked: frozenset[Build] = frozenset()

    def of(self, route: Route, version: str) -> Sequence[Signature]:
        """What is known of a version as ``route`` runs it."""
        build = build_of(route, version)
        return self.loaded.get(build) or self.described.get(build, ())

    def has_loaded(self, route: Route, version: str) -> bool:
        """Whether a worker has met it."""
        return bool(self.loaded.get(build_of(route, version)))

    def require(self, wanted: Sequence[Build]) -> None:
        """Go on when there is nothing left to ask.

        Raises:
            Unasked: There is.
        """
        left = [build for build in dict.fromkeys(wanted) if build not in self.asked]
        if left and len(self.asked) < MAX_DESCRIBED:
            raise Unasked(left[: MAX_DESCRIBED - len(self.asked)])

    async def asking(self, describe: Describe, model: str, wanted: Sequence[Build]) -> "Known":
        """The same, and what can be found out about ``wanted``."""
        found = await describe(model, wanted)
        return Known(self.loaded, {**self.described, **found}, self.asked | {*wanted})


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of the check.

    Attributes:
        breaks: By version, what nobody has accepted yet.
        unchecked: Versions that cannot be compared now; workers do it once they can, and send no draws there before.
        unheld: A new stable, or its new backend, where nobody knows what stable was before.
        wanted: What nobody knows, and could be asked for.
    """

    breaks: dict[str, list[Problem]] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    unheld: list[str] = field(default_factory=list)
    wanted: list[Build] = field(default_factory=list)

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
        unheld = [
            f"version {version!r} takes stable's place and is held against nothing: nobody knows what stable took and "
            "answered before"
            for version in self.unheld
        ]
        return unheld + [
            f"the contract of version {version!r} is not known yet: it is held against stable's when it is ready, and "
            "stable answers its share until then"
            for version in self.unchecked
        ]


def check(before: Document | None, route: Route, known: Known, *, is_override: bool) -> Findings:
    """Hold every version that the edit trusts with more against the stable that clients know.

    Args:
        before: What is stored now.
        route: What shall be.
        known: What versions take and answer.
        is_override: Look at every canary of ``route``, also those that do not gain.
    """
    findings = Findings()
    old = before.route if isinstance(before, RouteDocument) else None
    for stable_route, stable, version in _pairs(old, route, is_override=is_override):
        its, mine = known.of(stable_route, stable), known.of(route, version)
        if not its:
            findings.wanted.append(build_of(stable_route, stable))
        if not mine:
            findings.wanted.append(build_of(route, version))
        found = _unknown(old, route, version, known) if version == route.stable and its else []
        if version == route.stable and not its:
            findings.unheld.append(version)
        elif not found and not (its and mine):
            findings.unchecked.append(version)
        same_build = old is not None and route.backend(version) == old.backend(version)
        accepted = _accepted(before, version) if same_build else ()
        broken = {p.message: p for a in its for b in mine for p in breaks(a, b) if p.message not in accepted}
        if found or broken:
            findings.breaks[version] = [*findings.breaks.get(version, ()), *found, *broken.values()]
    return findings


def build_of(route: Route, version: str) -> Build:
    """What a version is, as ``route`` runs it."""
    return version, route.backend(version).model_dump_json()


def _unknown(old: Route | None, route: Route, version: str, known: Known) -> list[Problem]:
    """Why ``version`` cannot be stable yet: it must be loaded, but for stable itself, whose one place is changed."""
    if old is not None and old.stable == version:
        return [] if known.of(route, version) else [OTHER_BACKEND]
    return [] if known.has_loaded(route, version) else [UNKNOWN_STABLE]


def _pairs(old: Route | None, new: Route, *, is_override: bool) -> Iterator[tuple[Route, str, str]]:
    """Which stable, as which route runs it, is compared with which version."""
    has_new_stable = old is not None and build_of(old, old.stable) != build_of(new, new.stable)
    if old is not None and has_new_stable:
        yield old, old.stable, new.stable
    for version in new.canaries():
        if is_override or has_new_stable or old is None or _gains(version, old, new):
            yield new, new.stable, version


def _gains(version: str, old: Route, new: Route) -> bool:
    more = new.weights()[version] > old.weights().get(version, 0)
    return more or new.backend(version) != old.backend(version)


def _accepted(before: Document | None, version: str) -> Sequence[str]:
    override = before.guard.overridden.get(version) if before else None
    return override.breaks if override else ()
