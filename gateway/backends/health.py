"""Whether one of several servers should be asked, by what it did: out after failures in a row, slowly in again."""

from dataclasses import dataclass

LONGEST_SPELLS = 12  # a server is out for at most so many times ``eject_s``
FIRST_SHARE = 0.1  # of its usual calls that a server gets when it has just come back


@dataclass(frozen=True, slots=True)
class HealthRules:
    """When a server goes and how it comes back.

    Attributes:
        eject_after: Failures in a row; 0: never.
        eject_s: How long it is out at first, in seconds; twice as long each time that it fails again on its way back.
        slow_start_s: How long its share grows from a tenth to the whole.
        max_ejected: Share of a version's servers that may be out, 0 to 1; one is always left.
    """

    eject_after: int = 5
    eject_s: float = 5.0
    slow_start_s: float = 10.0
    max_ejected: float = 0.5

    def may_eject(self, servers: int, out: int) -> bool:
        """Whether one more of so many may go, when ``out`` of them cannot be asked already."""
        return out < min(int(self.max_ejected * servers), servers - 1)


class Health:
    """One server's.

    Attributes:
        faults: Failures in a row. One that has just come back stands one below the bound.
    """

    __slots__ = ("_credit", "_returned_s", "_rules", "_spells", "faults", "until_s")

    def __init__(self, rules: HealthRules) -> None:
        self._rules = rules
        self._spells = 0
        self._returned_s: float | None = None
        self._credit = 0.0
        self.faults = 0
        self.until_s = 0.0

    def good(self) -> None:
        """It has answered as it should."""
        self.faults = 0

    def fault(self) -> bool:
        """It has failed; returns whether that is once too often."""
        self.faults += 1
        return 0 < self._rules.eject_after <= self.faults

    def eject(self, now_s: float) -> None:
        """It is out until ``until_s``, at least."""
        self.until_s = now_s + self._rules.eject_s * min(2**self._spells, LONGEST_SPELLS)
        self._spells = min(self._spells + 1, LONGEST_SPELLS)
        self._returned_s = None

    def come_back(self, now_s: float) -> None:
        """It is in again: with a share that grows, and out at its first failure."""
        self.faults = max(0, self._rules.eject_after - 1)
        self._returned_s = now_s
        self._credit = 0.0

    def share(self, now_s: float) -> float:
        """The part of its usual calls that it should get, 0.1 to 1."""
        if self._returned_s is None:
            return 1.0
        whole_s = self._rules.slow_start_s
        age = (now_s - self._returned_s) / whole_s if whole_s > 0 else 1.0
        if age >= 1:
            self._returned_s = None
            self._spells = 0
            return 1.0
        return FIRST_SHARE + (1 - FIRST_SHARE) * max(0.0, age)

    def takes(self, now_s: float) -> bool:
        """Whether it is asked this time: of many times, its share."""
        self._credit += self.share(now_s)
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
