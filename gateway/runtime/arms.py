"""An arm: one variant of one compiled route, with everything a request needs at one index."""

from collections.abc import Sequence

from gateway.backends.base import State
from gateway.backends.registry import Slot
from gateway.metrics.ledger import HOW, VERDICTS, Ledger, VersionRow
from gateway.runtime.contracts import ContractCheck
from routing.analysis.guard import FRESH_MAX, Detector, KeyCap
from routing.analysis.histogram import Histogram
from routing.analysis.merged import MergedDetector
from routing.analysis.objective import Objective, Trip, held_against_stable
from routing.analysis.outcome import Kind

Header = tuple[bytes, bytes]
_READY = State.READY  # a member of an enum is looked up by Python code each time
MAX_ATTEMPTS = 2  # a version, and stable where that failed


def _count(index: int) -> property:
    """A count of this epoch: what the row holds beyond what it held when the epoch began."""

    def read(self: "Counters") -> int:
        return self.counts[index] - self._before[index]

    def write(self: "Counters", count: int) -> None:
        self.counts[index] = count + self._before[index]

    return property(read, write)


DRAWN, REDIRECTED, PINNED, FAILOVERS, CHARGED, SHARED, EXCUSED = range(len(HOW) + len(VERDICTS))
OUTCOME = {kind: index for index, kind in enumerate(Kind, len(HOW) + len(VERDICTS))}


class Counters:
    """What happened to one version in one epoch. Written by one loop, only ever grows.

    The counts are in a row of the worker's block, which belongs to this epoch alone while this object lives. On the
    request path ``counters.counts[DRAWN] += 1`` costs a third of ``counters.drawn += 1``.

    Attributes:
        counts: The row, which holds counts of earlier epochs too.
        drawn: Requests the split gave to this version.
        redirected: Of these, answered by stable because the version was lowered, not ready, or held.
        pinned: Requests that named the version.
        failovers: Requests of other versions that this one (stable) was asked instead.
        charged: Failures the guard was told of; ``shared`` and ``excused`` are those it was not.
        in_flight: Attempts that have not ended.
    """

    __slots__ = ("_before", "_row", "counts", "in_flight", "last_drawn_s")

    drawn = _count(DRAWN)
    redirected = _count(REDIRECTED)
    pinned = _count(PINNED)
    failovers = _count(FAILOVERS)
    charged = _count(CHARGED)
    shared = _count(SHARED)
    excused = _count(EXCUSED)

    def __init__(self, row: VersionRow) -> None:
        self._row = row  # while it is held, the row is nobody else's
        self.counts = row.counts
        self._before = row.counts.tolist()
        self.in_flight = 0
        self.last_drawn_s: float | None = None

    @property
    def outcomes(self) -> dict[Kind, int]:
        """Attempts by how they ended."""
        return {kind: self.counts[index] - self._before[index] for kind, index in OUTCOME.items()}

    def ended(self, kind: Kind) -> None:
        """Count the end of an attempt."""
        self.in_flight -= 1
        self.counts[OUTCOME[kind]] += 1

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
        latencies_s: Of good attempts, not yet counted: appended on the request path, counted by the next sweep.
        seconds: Times of good attempts for the metrics, over all epochs.
        trip: Why the guard tripped, once it has.
        lowered: The arm gets no draws: a guard tripped and acts.
        unsent: Draws of stable that were not sent to it, since the last flush: it was not ready.
        lowest_threshold_s: Latency below which no objective cares.
        alarm: Why a trip was not acted on, when the fault is shared or stable is gone; else empty.
        would_have_flipped: What a guard that does not act would have done; else empty.
        since_s: When the epoch began here, on the gateway's clock.

    Args:
        is_alone: No other worker or gateway sees attempts of this version.
    """

    __slots__ = (
        "_caps",
        "_drawn",
        "_fresh",
        "_held",
        "_histogram",
        "_hits",
        "_is_alone",
        "_judged",
        "_judged_s",
        "_untold",
        "alarm",
        "counters",
        "detector",
        "epoch",
        "latencies_s",
        "lowered",
        "lowest_threshold_s",
        "merged",
        "objectives",
        "seconds",
        "since_s",
        "trip",
        "unsent",
        "would_have_flipped",
    )

    def __init__(
        self,
        epoch: int,
        objectives: Sequence[Objective],
        row: VersionRow | None = None,
        *,
        since_s: float = 0.0,
        is_alone: bool = True,
    ) -> None:
        self.epoch = epoch
        self.since_s = since_s
        self._judged, self._judged_s = 0, since_s
        self.objectives = tuple(objectives)
        held = row or Ledger().version("", "")
        self.counters = Counters(held)
        self.seconds = held.seconds
        self._histogram = Histogram()
        self.latencies_s: list[float] = []
        self._is_alone = is_alone
        self.detector = self._new_detector()
        self._held = held_against_stable(self.objectives)
        self.merged = MergedDetector(self._held)
        self.trip: Trip | None = None
        self.lowered = False
        self.alarm = ""
        self.would_have_flipped = ""
        self.unsent = 0
        self._drawn = self.counters.drawn  # as of the last flush
        self.lowest_threshold_s = min(
            (o.threshold_s for o in self.objectives if o.threshold_s is not None), default=float("inf")
        )
        self._hits: dict[str, int] = {}
        self._caps: dict[str, KeyCap] = {}
        self._untold = 0
        self._fresh: dict[str, list[int | None]] = {}

    def settle(self) -> None:
        """Count the times of good attempts that have come since the last time."""
        if self.latencies_s:
            latencies_s, self.latencies_s = self.latencies_s, []
            self._histogram.observe_all(latencies_s)
            self.seconds.observe_all(latencies_s)

    @property
    def histogram(self) -> Histogram:
        """Times of good attempts in this epoch."""
        self.settle()
        return self._histogram

    def unjudged_s(self, now_s: float) -> float:
        """For how long the guard has judged nothing, as often as that is asked."""
        judged = self.detector.judged
        if judged != self._judged:
            self._judged, self._judged_s = judged, now_s
        return now_s - self._judged_s

    def renew_detector(self) -> None:
        """Start the guard's evidence anew after an alarm that did not lower the version."""
        self.detector = self._new_detector()

    def _new_detector(self) -> Detector:
        return Detector(self.objectives, is_alone=self._is_alone)

    def count_stable_hit(self, objective: str, key_hash: int | None) -> None:
        """One such attempt failed, or exceeded a threshold; two of one key count, as for a canary."""
        if self._caps.setdefault(objective, KeyCap()).is_spent(key_hash):
            return
        self._hits[objective] = self._hits.get(objective, 0) + 1
        fresh = self._fresh.setdefault(objective, [])
        if len(fresh) < FRESH_MAX:
            fresh.append(key_hash)

    def flush(self) -> None:
        """Step stable's own detector on what came since the last flush."""
        drawn = self.counters.drawn
        seen = drawn - self._drawn - self.unsent
        self._drawn, self.unsent = drawn, 0
        if seen or self._hits:
            self.merged.flush({o.name: (seen, self._hits.get(o.name, 0)) for o in self._held})
            self._untold += seen
            self._hits = {}

    def take(self, *, is_stable: bool) -> dict[str, tuple[int, list[int | None]]]:
        """By objective, attempts and the keys of hits since the last call, for a detector over all workers."""
        if not is_stable:
            return self.detector.take()
        self.flush()
        attempts, self._untold = self._untold, 0
        fresh, self._fresh = self._fresh, {}
        if not attempts and not fresh:
            return {}
        return {o.name: (attempts, fresh.get(o.name, [])) for o in self._held}


class Named:
    """Prepared answer headers.

    Attributes:
        headers: As names and values.
        lines: The same as they go out, behind the end of another line, each with its own.
        last_lines: The same where they end the head.
    """

    __slots__ = ("headers", "last_lines", "lines")

    def __init__(self, headers: tuple[Header, ...]) -> None:
        self.headers = headers
        self.lines = b"\r\n" + b"".join(b"%s: %s\r\n" % header for header in headers)
        self.last_lines = self.lines + b"\r\n"


NAMELESS = Named(())  # of an answer that no version stands behind


class Arm:
    """One variant, compiled.

    Attributes:
        role: ``stable`` or ``canary``, or ``pinned`` for a version outside the route.
        named: Answer headers by the number of attempts; ``pinned_named`` for requests that named the version.
        codes: Requests by the status that went out, as cells of the worker's block; filled as they come.
        contract: Holds a variant against stable; ``None`` for stable and for what is no variant.
    """

    __slots__ = (
        "codes",
        "contract",
        "evidence",
        "is_stable",
        "model",
        "named",
        "pinned_codes",
        "pinned_named",
        "role",
        "slot",
        "version",
        "weight_ppm",
    )

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
        self.named = _named(version, role, revision, opaque=opaque)
        self.pinned_named = _named(version, "pinned", revision, opaque=opaque)
        self.contract: ContractCheck | None = None
        self.codes: dict[int, memoryview] = {}
        self.pinned_codes: dict[int, memoryview] = {}

    @property
    def takes_draws(self) -> bool:
        """Whether a draw may be answered here: ready, not lowered, and of stable's contract."""
        if self.slot.backend.state is not _READY or self.evidence.lowered:
            return False
        contract = self.contract
        return contract is None or contract.passes()


def _named(version: str, role: str, revision: int | None, *, opaque: bool) -> tuple[Named, ...]:
    named = () if opaque else ((b"x-turnout-version", version.encode()), (b"x-turnout-role", role.encode()))
    revised = () if revision is None else ((b"x-turnout-revision", b"%d" % revision),)
    return tuple(Named((*named, *revised, (b"x-turnout-attempts", b"%d" % n))) for n in range(MAX_ATTEMPTS + 1))
