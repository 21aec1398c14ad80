"""An arm: one variant of one compiled route, with everything a request needs at one index."""

from collections.abc import Sequence

from gateway.backends.registry import Slot
from routing.analysis.guard import Detector, KeyCap
from routing.analysis.histogram import Histogram
from routing.analysis.merged import MergedDetector
from routing.analysis.objective import ERRORS, Objective, Trip
from routing.analysis.outcome import Kind

Header = tuple[bytes, bytes]


class Counters:
    """What happened to one version in one epoch. Written by one loop, only ever grows.

    Attributes:
        drawn: Requests the split gave to this version.
        redirected: Of these, answered by stable because the version was lowered or not ready.
        pinned: Requests that named the version.
        failovers: Requests of other versions that this one (stable) was asked instead.
        outcomes: Attempts by how they ended.
        charged: Failures the guard was told of; ``shared`` and ``excused`` are those it was not.
    """

    __slots__ = (
        "charged",
        "drawn",
        "excused",
        "failovers",
        "in_flight",
        "last_drawn_s",
        "outcomes",
        "pinned",
        "redirected",
        "shared",
    )

    def __init__(self) -> None:
        self.drawn = self.redirected = self.pinned = self.failovers = 0
        self.charged = self.shared = self.excused = self.in_flight = 0
        self.outcomes = dict.fromkeys(Kind, 0)
        self.last_drawn_s: float | None = None

    def as_json(self) -> dict[str, object]:
        """Plain counts."""
        return {
            "drawn": self.drawn,
            "redirected": self.redirected,
            "pinned": self.pinned,
            "failovers": self.failovers,
            "outcomes": {kind.value: count for kind, count in self.outcomes.items() if count},
            "charged": self.charged,
            "shared": self.shared,
            "excused": self.excused,
            "in_flight": self.in_flight,
        }


class Evidence:
    """What is known of one version in one epoch; travels from arm to arm while the epoch lasts.

    Attributes:
        detector: The canary's guard.
        merged: Stable's own detector, stepped once per flush.
        trip: Why the guard tripped, once it has.
        lowered: The arm gets no draws: a guard tripped and acts.
        alarm: Why a trip was not acted on, when the fault is shared or stable is gone; else empty.
        would_have_flipped: What a guard that does not act would have done; else empty.
    """

    __slots__ = (
        "_caps",
        "_hits",
        "_seen",
        "alarm",
        "counters",
        "detector",
        "epoch",
        "histogram",
        "lowered",
        "merged",
        "objectives",
        "trip",
        "would_have_flipped",
    )

    def __init__(self, epoch: int, objectives: Sequence[Objective]) -> None:
        self.epoch = epoch
        self.objectives = tuple(objectives)
        self.counters = Counters()
        self.histogram = Histogram()
        self.detector = Detector(self.objectives)
        with_errors = [o for o in self.objectives if o.name == ERRORS] or [Objective(ERRORS, 0.01)]
        self.merged = MergedDetector([*with_errors, *(o for o in self.objectives if o.threshold_s is not None)])
        self.trip: Trip | None = None
        self.lowered = False
        self.alarm = ""
        self.would_have_flipped = ""
        self._seen = 0
        self._hits: dict[str, int] = {}
        self._caps: dict[str, KeyCap] = {}

    def renew_detector(self) -> None:
        """Start the guard's evidence anew after an alarm that did not lower the version."""
        self.detector = Detector(self.objectives)

    def count_stable_dispatch(self) -> None:
        """One attempt of stable that is evidence was dispatched."""
        self._seen += 1

    def count_stable_hit(self, objective: str, key_hash: int | None) -> None:
        """One such attempt failed, or exceeded a threshold; two of one key count, as for a canary."""
        if self._caps.setdefault(objective, KeyCap()).is_spent(key_hash):
            return
        self._hits[objective] = self._hits.get(objective, 0) + 1

    def flush(self) -> None:
        """Step stable's own detector on what came since the last flush."""
        if self._seen or self._hits:
            names = [ERRORS, *(o.name for o in self.objectives if o.threshold_s is not None)]
            self.merged.flush({name: (self._seen, self._hits.get(name, 0)) for name in names})
            self._seen, self._hits = 0, {}


class Arm:
    """One variant, compiled.

    Attributes:
        role: ``stable`` or ``canary``, or ``pinned`` for a version outside the route.
        headers: Answer headers without the number of attempts.
    """

    __slots__ = ("evidence", "headers", "is_stable", "model", "pinned_headers", "role", "slot", "version", "weight_ppm")

    def __init__(
        self,
        model: str,
        version: str,
        role: str,
        slot: Slot,
        evidence: Evidence,
        *,
        weight_ppm: int,
        revision: int | None,
        opaque: bool,
    ) -> None:
        self.model = model
        self.version = version
        self.role = role
        self.is_stable = role == "stable"
        self.slot = slot
        self.evidence = evidence
        self.weight_ppm = weight_ppm
        self.headers = _headers(version, role, revision, opaque=opaque)
        self.pinned_headers = _headers(version, "pinned", revision, opaque=opaque)

    @property
    def takes_draws(self) -> bool:
        """Whether a draw may be answered here: ready, and not lowered."""
        return self.slot.is_ready and not self.evidence.lowered


def _headers(version: str, role: str, revision: int | None, *, opaque: bool) -> tuple[Header, ...]:
    named = () if opaque else ((b"x-turnout-version", version.encode()), (b"x-turnout-role", role.encode()))
    revised = () if revision is None else ((b"x-turnout-revision", b"%d" % revision),)
    return (*named, *revised)
