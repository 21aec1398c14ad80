"""From a request to its answer: choose an arm, attempt, fail over to stable, observe. Callbacks, no tasks."""

import logging
from collections.abc import Callable
from functools import partial
from random import Random

from gateway.backends.base import Reply, State
from gateway.dataplane.admission import Gate
from gateway.dataplane.budget import RetryBudgets
from gateway.dataplane.exchange import DRAW, PIN, SEQUENCE, Exchange, Trial, pending, unheard
from gateway.dataplane.infer_heads import InferHead
from gateway.dataplane.mirror import Mirror
from gateway.dataplane.observer import Observer
from gateway.dataplane.tally import Tally
from gateway.dataplane.verdicts import checked, not_ready, refusal, unrouted
from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    ModelNotFound,
    VersionNotFound,
    VersionNotReady,
    error_body,
    status_of,
)
from gateway.runtime.arms import DRAWN, NAMELESS, OUTCOME, PINNED, Arm, Named
from gateway.runtime.compile import CompiledRoute, sticky_key
from gateway.runtime.snapshot import Runtime, Snapshot
from routing.analysis.outcome import Kind, may_fail_over
from routing.split import SplitPlan
from routing.table import PPM

log = logging.getLogger("turnout.dataplane")

# To look up a member of an enumeration costs as much as a call.
OK, TIMEOUT, READY = Kind.OK, Kind.TIMEOUT, State.READY


class Pipeline:
    """The request path of one worker.

    Args:
        runtime: Where the current snapshot is.
        observer: Where evidence goes.
        tally: Where requests are counted.
        mirror: Where copies for shadows go.
        gate: Says whether there is room for canaries.
        budgets: Bound second attempts.
        clock: Monotonic seconds. Not the loop's own time, which is read once a turn and in whole milliseconds.
        draws: Source of draws without a key; never anything that a client sent.

    Attributes:
        in_work: Requests that have not been answered.
        budgets: Of second attempts.
    """

    def __init__(
        self,
        runtime: Runtime,
        observer: Observer,
        tally: Tally,
        mirror: Mirror,
        gate: Gate,
        budgets: RetryBudgets,
        clock: Callable[[], float],
        draws: Random | None = None,
    ) -> None:
        self._runtime = runtime
        self._observer = observer
        self._tally = tally
        self._mirror = mirror
        self._gate = gate
        self.budgets = budgets
        self._clock = clock
        self._draws = draws or Random()
        self.in_work: set[Exchange] = set()

    def begin(self, exchange: Exchange) -> None:
        """Start a request whose whole body came at ``begun_s``; ``deliver`` may be called before this returns."""
        head = exchange.head
        route = self._runtime.current.routes.get(head.model)
        self.in_work.add(exchange)
        if route is None or head.version is not None:
            self._begin_undrawn(exchange, route, head.version)
            return
        exchange.route = route
        route.users += 1
        now_s = exchange.begun_s
        if b"sequence_id" in exchange.body and exchange.is_sequence():
            exchange.choice = SEQUENCE
            self._attempt(exchange, route.stable, now_s)
            return
        plan = route.plan
        arm = route.arms[head.arm if head.plan is plan else self._index(plan, head, route)]
        counters = arm.evidence.counters
        counters.counts[DRAWN] += 1
        counters.last_drawn_s = now_s
        if arm.is_stable:
            exchange.choice = DRAW
        elif not arm.takes_draws:
            counters.redirected += 1
            arm = route.stable
        elif not self._gate.takes_canaries:
            counters.redirected += 1
            self._tally.out_of_room()
            arm = route.stable
        else:
            exchange.trial = Trial(arm, route.retries, now_s)
        self._attempt(exchange, arm, now_s)

    def abandon(self, exchange: Exchange) -> None:
        """The client left, or closed its side and was not answered in time: give the attempt up and answer nobody."""
        if exchange not in self.in_work:
            return
        exchange.cancel()
        trial = exchange.trial
        if trial is not None and trial.refusal is None:
            self._observer.abandoned(exchange, exchange.left_s or self._clock())
        if exchange.arm is not None and exchange.dispatched_s:
            exchange.arm.evidence.counters.ended(Kind.CANCELLED)
        self._end(exchange, None, NAMELESS, 0.0)

    def drop(self, exchange: Exchange) -> None:
        """Something broke: end the request as an error, whatever state it is in."""
        if exchange in self.in_work:
            exchange.cancel()
            self._end(exchange, refusal(500, "internal error of the gateway"), NAMELESS, self._clock())

    def give_up(self) -> None:
        """The process ends now: answer everything that is still in work."""
        for exchange in list(self.in_work):
            exchange.cancel()
            sentence = "the gateway is stopping and cannot wait any longer"
            self._end(exchange, refusal(503, sentence), NAMELESS, self._clock())

    def expire(self, exchange: Exchange) -> None:
        """The time of the attempt in flight is up."""
        exchange.cancel()
        assert exchange.arm is not None
        self._replied(
            exchange, exchange.arm, Reply(Kind.TIMEOUT, 504, error_body("the version did not answer in time"))
        )

    def settle(self) -> None:
        """Count the times that have come since the last time."""
        self._tally.settle()

    def _begin_undrawn(self, exchange: Exchange, route: CompiledRoute | None, version: str | None) -> None:
        """A request that names its version, or a model without a route."""
        snapshot = self._runtime.current
        if route is not None:
            exchange.route = route
            route.users += 1
        try:
            if version is None:
                raise ModelNotFound(unrouted(snapshot, exchange.model))
            arm = self._pinned(snapshot, exchange, version)
        except GatewayError as error:
            self._end(exchange, refusal(status_of(error), str(error)), NAMELESS, exchange.begun_s)
            return
        self._attempt(exchange, arm, exchange.begun_s)

    def _pinned(self, snapshot: Snapshot, exchange: Exchange, version: str) -> Arm:
        arm = snapshot.pinned(exchange.model, version)
        if arm is None:
            known = snapshot.versions(exchange.model)
            if not known:
                raise ModelNotFound(unrouted(snapshot, exchange.model))
            raise VersionNotFound(
                f"model {exchange.model!r} has no version {version!r}; there are {', '.join(map(repr, known))}"
            )
        exchange.choice = PIN
        arm.evidence.counters.counts[PINNED] += 1
        return arm

    def _index(self, plan: SplitPlan, head: InferHead, route: CompiledRoute) -> int:
        """Index of the arm that is drawn; the head keeps it, unless the draw has no key."""
        key = sticky_key(route, head.headers) if route.key_sources else None
        if key is None:
            return plan.at(self._draws.randrange(PPM))
        head.plan, head.key, head.arm = plan, key, plan.choose(key)
        return head.arm

    def _attempt(self, exchange: Exchange, arm: Arm, now_s: float) -> None:
        exchange.arm = arm
        backend = arm.slot.backend
        if backend.state is not READY:
            self._unready(exchange, arm)
            return
        exchange.dispatched_s = now_s
        arm.evidence.counters.in_flight += 1
        if exchange.trial is not None:
            _bound_attempt(exchange, exchange.trial, now_s)
        try:
            cancel = backend.submit(exchange, exchange.attempt_deadline_s, partial(self._replied, exchange, arm))
        except Exception as error:  # a backend that breaks must not leave its request behind
            log.exception("a backend crashed", extra={"model": arm.model, "version": arm.version})
            if exchange in self.in_work:
                body = error_body("internal error of the gateway")
                self._replied(exchange, arm, Reply(Kind.INTERNAL, 500, body, detail=repr(error)))
            return
        if exchange.cancel is pending:  # else it has ended already
            exchange.cancel = cancel

    def _unready(self, exchange: Exchange, arm: Arm) -> None:
        """A version that was not drawn as a canary cannot be asked."""
        sentence = not_ready(arm)
        reply = Reply(Kind.UNREACHABLE, status_of(VersionNotReady(sentence)), error_body(sentence), detail=sentence)
        trial = exchange.trial
        if trial is not None and trial.refusal is not None:
            self._observer.judged(exchange, trial.refusal.kind, reply.kind)
        elif exchange.choice == DRAW:
            arm.evidence.unsent += 1
        named = (arm.pinned_named if exchange.choice == PIN else arm.named)[0 if trial is None else 1]
        now_s = self._clock()
        attempted_s = 0.0 if trial is None else trial.attempted_s
        self._tally.added(exchange, now_s - exchange.begun_s - attempted_s)
        self._end(exchange, reply, named, now_s, 0.0)

    def _replied(self, exchange: Exchange, arm: Arm, reply: Reply) -> None:
        """An attempt has ended."""
        exchange.cancel = unheard
        trial = exchange.trial
        now_s = self._clock()
        latency_s = now_s - exchange.dispatched_s
        if trial is not None and trial.refusal is None:
            reply = checked(exchange, arm, reply)
        kind = reply.kind
        evidence = arm.evidence
        counters = evidence.counters
        counters.in_flight -= 1
        counters.counts[OUTCOME[kind]] += 1
        if kind is OK:
            if not evidence.latencies_s:
                self._tally.unsettled.append(evidence)
            evidence.latencies_s.append(latency_s)
        if trial is not None:
            self._tried(exchange, arm, trial, reply, now_s, latency_s)
            return
        if kind is not OK or latency_s > evidence.lowest_threshold_s:
            if exchange.choice == DRAW:
                self._observer.stable_ended(exchange, kind, latency_s, reply.own_s)
            reply = self._in_time(exchange, reply, now_s)
        named = arm.pinned_named if exchange.choice == PIN else arm.named
        self._end(exchange, reply, named[1], now_s, latency_s)

    def _tried(self, exchange: Exchange, arm: Arm, trial: Trial, reply: Reply, now_s: float, latency_s: float) -> None:
        """An attempt of a request that was drawn for a canary has ended."""
        trial.attempted_s += latency_s
        canary, attempts = trial.refusal, 1
        if canary is not None:
            self._observer.judged(exchange, canary.kind, checked(exchange, arm, reply).kind)
            now_s, attempts = self._clock(), 2
        elif reply.kind is OK:
            self._observer.canary_answered(exchange, latency_s, reply.own_s)
            now_s = self._clock()
        elif self._fails_over(exchange, trial, reply, now_s):
            return
        self._tally.added(exchange, now_s - exchange.begun_s - trial.attempted_s)
        if reply.kind is not OK:
            reply = self._in_time(exchange, reply, now_s)
        self._end(exchange, reply, arm.named[attempts], now_s, latency_s)

    def _fails_over(self, exchange: Exchange, trial: Trial, reply: Reply, now_s: float) -> bool:
        """The canary has failed: ask stable, if it may be asked."""
        self._observer.canary_failed(exchange)
        route = exchange.route
        assert route is not None
        if trial.may_fail_over and may_fail_over(reply.kind) and now_s < exchange.deadline_s:
            # Once it gets no more, there are only those that were on their way.
            if self._gets_no_more(trial.arm) or self.budgets.take(route, now_s):
                trial.refusal = reply
                exchange.cancel = pending
                route.stable.evidence.counters.failovers += 1
                self._attempt(exchange, route.stable, self._clock())
                return True
            trial.may_fail_over = False  # without a second attempt there is no proof, and it is charged at once
            self._tally.out_of_retries()
        # Where only the deadline kept stable from being asked, there is no proof, and nobody is charged.
        self._observer.judged(exchange, reply.kind, Kind.CANCELLED if trial.may_fail_over else None)
        return False

    def _gets_no_more(self, canary: Arm) -> bool:
        """Whether nobody is sent there any more: a guard has lowered it, or an edit has taken its weight."""
        route = self._runtime.current.routes.get(canary.model)
        now = None if route is None else route.by_version.get(canary.version)
        return canary.evidence.lowered or now is None or not now.weight_ppm

    def _in_time(self, exchange: Exchange, reply: Reply, now_s: float) -> Reply:
        """What goes out where an attempt did not go well: the request's own time may have run out with it."""
        if reply.kind is not TIMEOUT or now_s < exchange.deadline_s:
            return reply
        self._tally.out_of_time()
        error = DeadlineExceeded("no version answered within the request's deadline")
        return Reply(Kind.TIMEOUT, status_of(error), error_body(str(error)))

    def _end(
        self, exchange: Exchange, reply: Reply | None, named: Named, now_s: float, latency_s: float | None = None
    ) -> None:
        """Let go of a request.

        Args:
            exchange: The request.
            reply: What goes out; ``None``: nobody is there to answer.
            named: Who stands behind that.
            now_s: When.
            latency_s: Of the attempt that ended last; ``None``: no version answered, and no shadow gets a copy.
        """
        self.in_work.discard(exchange)
        route = exchange.route
        if route is not None:
            route.users -= 1
            if route.retired:
                route.look_idle()
        if reply is None:
            self._tally.left(exchange)
            return
        self._tally.answered(exchange, reply.status, now_s)  # first: what a client has seen is counted, come what may
        exchange.deliver(exchange, reply, named, now_s)
        if route is not None and route.shadows and latency_s is not None:
            self._mirror.offer(exchange, reply, latency_s)


def _bound_attempt(exchange: Exchange, trial: Trial, now_s: float) -> None:
    """A canary's attempt that may be retried leaves the rest of the deadline to stable."""
    if trial.refusal is not None:
        exchange.attempt_deadline_s = exchange.deadline_s
        return
    given_s = exchange.deadline_s - now_s
    if trial.may_fail_over:
        assert exchange.route is not None
        cap_s = exchange.route.attempt_cap_s
        given_s = given_s / 2 if cap_s is None else min(given_s / 2, cap_s)
        exchange.attempt_deadline_s = now_s + given_s
    trial.given_s = given_s
