"""Evidence from the request path to the guards, and what happens when one trips."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.dataplane.exchange import DRAW, Exchange, Trial
from gateway.runtime.arms import Arm
from gateway.runtime.compile import MIN_ATTEMPT_S, THRESHOLDS_AN_ATTEMPT, CompiledRoute
from routing.analysis.merged import is_shared
from routing.analysis.objective import ERRORS, FUSE, Trip
from routing.analysis.outcome import Charge, Kind, charge, is_fault

log = logging.getLogger("turnout.guard")

LAG_SHARE = 0.25  # of a threshold: an answer read under more loop lag is no latency evidence
UNREADY = "unready"
TOLERANCE_S = 1e-6


@dataclass(frozen=True, slots=True)
class Breach:
    """A guard lowered a version in this worker.

    Attributes:
        reason: Sentence for people.
        evidence: Plain data for the document.
    """

    model: str
    version: str
    epoch: int
    reason: str
    evidence: dict[str, Any]


class Observer:
    """Feeds the guards of all routes in one worker.

    Args:
        on_breach: Told of every lowered version, once per epoch, after the arm was lowered.
        clock: Monotonic seconds.

    Attributes:
        last_lag_s: How late the last sweep was.
        sweep_due_s: When the next sweep is due.
    """

    def __init__(self, on_breach: Callable[[Breach], None], clock: Callable[[], float]) -> None:
        self._on_breach = on_breach
        self._clock = clock
        self.last_lag_s = 0.0
        self.sweep_due_s = clock()

    @property
    def lag_s(self) -> float:
        """How far the loop is behind: by the last sweep, or by one that is overdue right now."""
        return max(self.last_lag_s, self._clock() - self.sweep_due_s)

    def stable_ended(self, exchange: Exchange, kind: Kind, latency_s: float, own_s: float | None = None) -> None:
        """A drawn attempt on stable has ended; ``own_s`` as in ``Reply``."""
        assert exchange.arm is not None
        if kind is not Kind.OK and is_fault(kind) and (kind is not Kind.TIMEOUT or _had_fair_time(exchange)):
            exchange.arm.evidence.count_stable_hit(ERRORS, exchange.key_hash)
        if latency_s > exchange.arm.evidence.lowest_threshold_s:  # its own time is no longer
            age_s = latency_s - self.lag_s if own_s is None else own_s
            self._stable_aged(exchange, exchange.arm, age_s)

    def _stable_aged(self, exchange: Exchange, arm: Arm, age_s: float) -> None:
        """Count each threshold that stable's attempt has passed, once, as early as the canary's are counted."""
        for bit, objective in enumerate(arm.evidence.objectives):
            passed = objective.threshold_s is not None and age_s > objective.threshold_s
            if passed and not exchange.mask & 1 << bit:
                exchange.mask |= 1 << bit
                arm.evidence.count_stable_hit(objective.name, exchange.key_hash)

    def canary_answered(self, exchange: Exchange, latency_s: float, own_s: float | None = None) -> None:
        """The canary answered properly.

        Args:
            latency_s: From dispatch to answer, by the loop.
            own_s: What of it was the canary's own, where its backend knows: batches of other versions in the same turn
                of the loop are not in it, and a late loop does not make it unusable while it keeps the promise.
        """
        route, trial = _guarded(exchange)
        arm = trial.arm
        usable, lowest_s = own_s, arm.evidence.lowest_threshold_s
        if own_s is None or own_s > lowest_s:
            lag_s = self.lag_s
            if lag_s > LAG_SHARE * lowest_s:
                usable = None  # where the loop gets no time, a thread gets none either
            elif own_s is None:
                usable = latency_s - lag_s
        trip = trial.detector.answered(trial.ticket, usable, exchange.mask, exchange.key_hash)
        self._act(route, arm, trip)

    def canary_failed(self, exchange: Exchange) -> None:
        """The canary failed; stable is being asked for proof."""
        _, trial = _guarded(exchange)
        trial.detector.set_aside(trial.ticket, exchange.mask)

    def judged(self, exchange: Exchange, canary: Kind, stable: Kind | None) -> None:
        """All attempts of a request whose canary failed have ended; ``stable`` is ``None`` when it was not asked."""
        route, trial = _guarded(exchange)
        counters = trial.arm.evidence.counters
        verdict = charge(canary, stable)
        if canary is Kind.TIMEOUT and not _had_fair_time(exchange):
            verdict = Charge.NONE
        match verdict:
            case Charge.CHARGED:
                counters.charged += 1
                trip = trial.detector.charged(trial.ticket, exchange.mask, exchange.key_hash)
                self._act(route, trial.arm, trip)
            case Charge.SHARED:
                counters.shared += 1
            case Charge.NONE:
                counters.excused += 1

    def aged(self, exchange: Exchange, age_s: float) -> None:
        """A first attempt is still in flight at this age."""
        if exchange.choice == DRAW and exchange.arm is not None:
            self._stable_aged(exchange, exchange.arm, age_s - self.lag_s)
        trial = exchange.trial
        if trial is None or self.lag_s > LAG_SHARE * trial.arm.evidence.lowest_threshold_s:
            return
        route, trial = _guarded(exchange)
        age_s -= self.lag_s
        exchange.mask, trip = trial.detector.sweep(trial.ticket, age_s, exchange.mask, exchange.key_hash)
        self._act(route, trial.arm, trip)

    def abandoned(self, exchange: Exchange, now_s: float) -> None:
        """The client left while the canary's attempt was in flight.

        Slowness that was counted stays counted. Without a latency SLO, a client that waited for more than half of
        the attempt's time has seen a failure.
        """
        route, trial = _guarded(exchange)
        waited_s = now_s - exchange.dispatched_s
        half_s = (exchange.attempt_deadline_s - exchange.dispatched_s) / 2
        if not route.has_latency_slo and waited_s > max(half_s, _fair_s(route)):
            trial.arm.evidence.counters.charged += 1
            trip = trial.detector.charged(trial.ticket, exchange.mask, exchange.key_hash)
            self._act(route, trial.arm, trip)
        else:
            trial.detector.set_aside(trial.ticket, exchange.mask)

    def unready(self, route: CompiledRoute, arm: Arm, unready_s: float) -> None:
        """A canary that was ready has not been for too long."""
        reason = f"not ready for {unready_s:.0f} s: {arm.slot.backend.reason}"
        self._lower(route, arm, UNREADY, reason)

    def _act(self, route: CompiledRoute, arm: Arm, trip: Trip | None) -> None:
        if trip is None or arm.evidence.lowered:
            return
        name = ERRORS if trip.objective == FUSE else trip.objective
        stable = route.stable.evidence
        stable.flush()
        if is_shared(stable.merged.evidence(name)):
            self._hold(route, arm, f"stable breaks {name} too: {trip.sentence()}")
            arm.evidence.renew_detector()
            return
        arm.evidence.trip = trip
        self._lower(route, arm, trip.objective, trip.sentence())

    def _lower(self, route: CompiledRoute, arm: Arm, objective: str, reason: str) -> None:
        evidence = arm.evidence
        if not route.stable.slot.is_ready:
            self._hold(route, arm, f"stable is not ready: {reason}")
            if objective != UNREADY:
                evidence.renew_detector()
            return
        if not route.enforce:
            if not evidence.would_have_flipped:
                evidence.would_have_flipped = reason
                self._say("would have flipped, enforce is false", route, arm, reason)
            if objective != UNREADY:
                evidence.renew_detector()  # so that it can act once it is told to
            return
        evidence.lowered = True
        self._say("flipped to stable", route, arm, reason)
        self._on_breach(
            Breach(
                route.model,
                arm.version,
                evidence.epoch,
                f"{objective}: {reason}",
                {
                    "objective": objective,
                    "sentence": reason,
                    "guard": evidence.detector.evidence(),
                    "counters": evidence.counters.as_json(),
                    "stable": route.stable.evidence.counters.as_json(),
                },
            )
        )

    def _hold(self, route: CompiledRoute, arm: Arm, reason: str) -> None:
        """Keep the weights; say so once, and keep the newest reason for the status."""
        if not arm.evidence.alarm:
            self._say("weights kept, alarm", route, arm, reason)
        arm.evidence.alarm = reason

    @staticmethod
    def _say(event: str, route: CompiledRoute, arm: Arm, reason: str) -> None:
        log.warning(
            event,
            extra={
                "model": route.model,
                "version": arm.version,
                "revision": route.document.revision,
                "epoch": arm.evidence.epoch,
                "reason": reason,
            },
        )


def _guarded(exchange: Exchange) -> tuple[CompiledRoute, Trial]:
    """What a canary's attempt is evidence for."""
    assert exchange.route is not None
    assert exchange.trial is not None
    return exchange.route, exchange.trial


def _fair_s(route: CompiledRoute) -> float:
    """Time that a version must have been given before running out of it is its fault.

    How long a client waits is the client's choice: a time-out says something about a version only when stable, with
    its own latencies, would hardly have run into it.
    """
    p90_s = route.stable.evidence.histogram.quantile(0.9) or 0.0
    return max(MIN_ATTEMPT_S, THRESHOLDS_AN_ATTEMPT * p90_s)


def _had_fair_time(exchange: Exchange) -> bool:
    """Whether the attempt that ran out of time had enough of it; a cap that the SLO sets always is."""
    route = exchange.route
    if route is None:
        return False
    trial = exchange.trial
    given_s = exchange.deadline_s - exchange.begun_s if trial is None else trial.given_s
    return given_s >= min(_fair_s(route), route.attempt_cap_s or float("inf")) - TOLERANCE_S
