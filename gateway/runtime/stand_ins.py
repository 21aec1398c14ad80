"""What serves on until what replaces it is ready: arms on the backends that answered before an edit."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from gateway.runtime.arms import Arm, Evidence


class Before(Protocol):
    """The route that served before the edit."""

    @property
    def stable(self) -> Arm:
        """The arm that answered as stable."""

    def pinned(self, version: str) -> Arm | None:
        """The arm that answered requests which named the version."""


class StandIns:
    """Arms that answer in the place of versions whose backends are not ready yet.

    Attributes:
        by_version: The version itself on the backend that it had before; for pins.
        stable: What answers as stable: the same arm, or the version that was stable before the edit; ``None``: stable
            itself does.
    """

    __slots__ = ("by_version", "stable")

    def __init__(self, by_version: Mapping[str, Arm], stable: Arm | None) -> None:
        self.by_version = by_version
        self.stable = stable

    def all(self) -> Iterator[Arm]:
        """Each once."""
        yield from self.by_version.values()
        if self.stable is not None and self.by_version.get(self.stable.version) is not self.stable:
            yield self.stable

    def sentence(self, arm: Arm) -> str:
        """Who answers as stable in the place of an arm that is stable by the document; else empty."""
        if self.stable is None or not arm.is_stable:
            return ""
        is_itself = self.stable.version == arm.version
        who = "the backend that it had before" if is_itself else f"version {self.stable.version!r}, stable before,"
        return f"until it is, {who} goes on" if self.stable.slot.is_ready else f"{who} is not ready either"


NOBODY = StandIns({}, None)


def stand_ins(
    arms: Mapping[str, Arm], stable: str, before: Before, stand_in: Callable[[Arm, Arm, Evidence], Arm]
) -> StandIns:
    """What has to stand in for the arms of a new route.

    Args:
        arms: By version, those that the document names.
        stable: The version that is stable now.
        before: What served until now.
        stand_in: Makes the arm that answers for the first one on the backend of the second; its backend is held once
            more.
    """
    by_version: dict[str, Arm] = {}
    for version, arm in arms.items():
        served = before.stable if before.stable.version == version else before.pinned(version)
        if served is not None and _is_better(served, arm):
            by_version[version] = stand_in(arm, served, arm.evidence)
    if before.stable.version == stable:
        return StandIns(by_version, by_version.get(stable))
    if _is_better(before.stable, arms[stable]):
        return StandIns(by_version, stand_in(arms[stable], before.stable, before.stable.evidence))
    return StandIns(by_version, None)


def _is_better(served: Arm, arm: Arm) -> bool:
    return served.slot is not arm.slot and served.slot.is_ready and not arm.slot.is_ready
