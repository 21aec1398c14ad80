"""Whether a version may have draws: it keeps stable's contract, or a person has accepted that it does not."""

from collections.abc import Collection
from enum import StrEnum
from typing import Any

from gateway.backends.base import State
from gateway.backends.registry import Slot
from gateway.protocol.breaks import breaks
from gateway.protocol.shapes import Signature
from routing.errors import Problem


class Verdict(StrEnum):
    """What came of holding a version against stable."""

    UNCHECKED = "unchecked"
    KEPT = "kept"
    BROKEN = "broken"
    ACCEPTED = "accepted"


class ContractCheck:
    """Holds one version against its route's stable, anew whenever one of the two describes itself anew.

    Args:
        stable: The version that clients know.
        version: The one that may answer in its place.
        accepted: Breaks that a person has accepted.

    Attributes:
        breaks: Those that were found.
    """

    __slots__ = ("_accepted", "_its", "_may_pass", "_mine", "_stable", "_version", "breaks")

    def __init__(self, stable: Slot, version: Slot, accepted: Collection[str] = ()) -> None:
        self._stable = stable.backend
        self._version = version.backend
        self._accepted = frozenset(accepted)
        self._its: Signature | None = None
        self._mine: Signature | None = None
        self._may_pass = False
        self.breaks: tuple[Problem, ...] = ()

    def passes(self) -> bool:
        """Whether draws may go to the version, which is ready.

        Where stable cannot say what it promises, because it has failed and was never there, there is nothing to compare
        with and nobody else to answer; the same holds for a version that is ready and describes nothing.
        """
        mine, its = self._version.signature, self._stable.signature
        if mine is not self._mine or its is not self._its:
            self._check(mine, its)
        if its is None:
            return self._stable.state is not State.LOADING
        return self._may_pass

    def verdict(self) -> Verdict:
        """What is known now."""
        passes = self.passes()
        if self._mine is None or self._its is None:
            return Verdict.UNCHECKED
        if not self.breaks:
            return Verdict.KEPT
        return Verdict.ACCEPTED if passes else Verdict.BROKEN

    def as_json(self) -> dict[str, Any]:
        """The verdict and every break, for a status."""
        verdict = self.verdict()
        return {
            "verdict": verdict.value,
            "breaks": [{"pointer": p.pointer, "code": p.code, "message": p.message} for p in self.breaks],
        }

    def _check(self, mine: Signature | None, its: Signature | None) -> None:
        self._mine, self._its = mine, its
        self.breaks = tuple(breaks(its, mine)) if mine is not None and its is not None else ()
        self._may_pass = all(problem.message in self._accepted for problem in self.breaks)
