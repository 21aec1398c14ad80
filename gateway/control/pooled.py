"""What is known of one version in one epoch from several sources: workers of a gateway, or gateways on a store."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.control.messages import Count
from gateway.runtime.promises import slo_objectives
from routing.analysis.guard import KeyCap
from routing.analysis.merged import MergedDetector, Slot
from routing.analysis.objective import FUSE, Trip, held_against_stable
from routing.analysis.slots import SlotNews
from routing.document import RouteDocument

KEYS_KEPT = 256  # of an objective, that who goes on from here remembers the charges of


class Pooled:
    """Evidence of one version, added up, and the detector that is stepped on the sums.

    Attributes:
        sources: Who has seen some of it.
        is_lowered: It gets no draws any more.
        alarm: Why a trip was not acted on; else empty.
        would_have_flipped: What a guard that does not act would have done; else empty.
    """

    def __init__(self, document: RouteDocument, epoch: int, *, is_stable: bool) -> None:
        promised = slo_objectives(document.route.slo)
        self._objectives = held_against_stable(promised) if is_stable else promised
        self._caps: dict[str, KeyCap] = {}
        self._pending: dict[str, tuple[int, int]] = {}
        self._slots: list[Slot] = []
        self._shifts: dict[str, int] = {}
        self.epoch = epoch
        self.is_stable = is_stable
        self.detector = MergedDetector(self._objectives)
        self.attempts: dict[str, int] = {}
        self.hits: dict[str, int] = {}
        self.sources: set[str] = set()
        self.is_lowered = False
        self.alarm = ""
        self.would_have_flipped = ""

    def add(self, source: str, count: Count, now_slot: int | None = None) -> None:
        """Take in what one source saw. Two hits of one key are evidence, wherever they were seen.

        Args:
            now_slot: The slot on a count of all sources, where they have not one; asked at a source's first word only,
                for a count that went on by itself would tear its slots apart.
        """
        self.sources.add(source)
        for name, (attempts, keys) in count.deltas.items():
            cap = self._caps.setdefault(name, KeyCap())
            hits = sum(not cap.is_spent(key) for key in keys)
            before = self._pending.get(name, (0, 0))
            self._pending[name] = (before[0] + attempts, before[1] + hits)
            self.attempts[name] = self.attempts.get(name, 0) + attempts
            self.hits[name] = self.hits.get(name, 0) + hits
        if count.slots:
            self._add_slots(source, count.slots, now_slot)

    def _add_slots(self, source: str, slots: Sequence[SlotNews], now_slot: int | None) -> None:
        newest = max(slot for slot, _, _ in slots)
        shift = 0 if now_slot is None else self._shifts.setdefault(source, now_slot - newest)
        cap = self._caps.setdefault(FUSE, KeyCap())
        for slot, attempts, keys in slots:
            within_cap = sum(not cap.is_spent(key) for key in keys)
            self._slots.append(Slot(slot + shift, attempts, len(keys), within_cap))

    def step(self, *, all_burn: bool) -> Trip | None:
        """Step the detector on what came since the last step; ``all_burn``: as its ``flush`` says."""
        pending, self._pending = self._pending, {}
        slots, self._slots = self._slots, []
        return self.detector.flush(pending, slots, all_burn=all_burn)

    @property
    def is_unsettled(self) -> bool:
        """It has to be stepped again, whether anything comes or not."""
        return self.detector.is_unsettled

    def renew(self) -> None:
        """Begin anew after an alarm that did not lower the version."""
        self.detector = MergedDetector(self._objectives)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers by objective."""
        found: dict[str, Any] = {
            o.name: {
                "p0": o.p0,
                "c": o.c,
                "odds": self.detector.evidence(o.name),
                "attempts": self.attempts.get(o.name, 0),
                "charged": self.hits.get(o.name, 0),
            }
            for o in self._objectives
        }
        return found if self.is_stable else found | {FUSE: self.detector.fuse()}

    def as_state(self) -> dict[str, Any]:
        """All of it but what is pending, as plain data."""
        return {
            "epoch": self.epoch,
            "is_stable": self.is_stable,
            "detector": self.detector.as_state(),
            "caps": {name: cap.as_state(KEYS_KEPT) for name, cap in self._caps.items()},
            "attempts": self.attempts,
            "hits": self.hits,
            "shifts": self._shifts,
            "sources": sorted(self.sources),
            "is_lowered": self.is_lowered,
            "alarm": self.alarm,
            "would_have_flipped": self.would_have_flipped,
            "evidence": self.as_json(),
        }

    @classmethod
    def from_state(cls, document: RouteDocument, state: Mapping[str, Any]) -> "Pooled":
        """Go on from what ``as_state`` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is none.
        """
        found = cls(document, int(state["epoch"]), is_stable=bool(state["is_stable"]))
        found.detector.restore(state["detector"])
        for name, keys in state["caps"].items():
            found._caps[name] = KeyCap()
            found._caps[name].restore(keys)
        found.attempts, found.hits = dict(state["attempts"]), dict(state["hits"])
        found._shifts = {str(source): int(shift) for source, shift in state["shifts"].items()}
        found.sources = set(state["sources"])
        found.is_lowered = bool(state["is_lowered"])
        found.alarm, found.would_have_flipped = str(state["alarm"]), str(state["would_have_flipped"])
        return found
