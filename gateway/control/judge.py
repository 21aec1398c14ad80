"""Judges what several saw together: a canary that is bad everywhere, and nowhere often enough to be found out."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from gateway.control.messages import Count, Counted, Lowered
from gateway.control.pooled import Pooled
from routing.analysis.merged import is_shared
from routing.analysis.objective import ERRORS, FUSE, Trip
from routing.codec import decode, lowered_as_in
from routing.document import Document, RouteDocument
from routing.errors import NewerSchema, RoutingError
from routing.table import Route

log = logging.getLogger("turnout.guard")

FLUSH_S = 0.1


class Judge:
    """Steps a detector for each version on the sums of all sources.

    Args:
        lower: Receives what a guard in a worker would have sent.
        over: What the sources are, for people.
        least: Sources without which only a run of failures is acted on: one alone has a guard that is quicker.
        is_last: Whether nobody knows more. Otherwise a run that is long only because of one key's many failures is left
            to who does: others may know of good answers between them.
        steps_itself: ``FLUSH_S`` after the first evidence came; otherwise somebody else calls ``step``.
        away_s: How long it counts that a source said its stable is not ready.

    Attributes:
        changed: Models of which something was taken in, or dropped, since somebody else cleared it.
    """

    def __init__(
        self,
        lower: Callable[[Lowered], None],
        *,
        over: str = "workers",
        least: int = 1,
        steps_itself: bool = True,
        away_s: float = float("inf"),
        is_last: Callable[[], bool] = lambda: True,
    ) -> None:
        self._lower = lower
        self._over = over
        self._least = least
        self._steps_itself = steps_itself
        self._away_s = away_s
        self._is_last = is_last
        self.changed: set[str] = set()
        self._documents: dict[str, RouteDocument] = {}
        self._merged: dict[str, dict[str, Pooled]] = {}
        self._not_ready: dict[str, dict[str, float]] = {}
        self._stepping: asyncio.TimerHandle | None = None
        self._unjudged: set[str] = set()

    def follow(self, model: str, data: bytes) -> None:
        """The store holds this document: evidence of epochs that are over is dropped."""
        try:
            document = _read(data, self._documents.get(model))
        except RoutingError:
            return
        if not isinstance(document, RouteDocument):
            self.forget(model)
            return
        self._documents[model] = document
        held = self._merged.get(model, {})
        kept = {v: m for v, m in held.items() if self._is_current(document, v, m.epoch, m.is_stable)}
        self._merged[model] = kept
        for version, merged in kept.items():
            merged.is_lowered = merged.is_lowered or version in document.guard.latched
        if len(kept) < len(held):
            self.changed.add(model)

    def forget(self, model: str) -> None:
        """There is no such route any more."""
        self._documents.pop(model, None)
        if self._merged.pop(model, None):
            self.changed.add(model)
        self._not_ready.pop(model, None)

    @property
    def routes(self) -> list[Route]:
        """The newest of each that can be read."""
        return [document.route for document in self._documents.values()]

    @property
    def models(self) -> list[str]:
        """Models that have a route."""
        return sorted(self._documents)

    def lowered(self, message: Lowered) -> None:
        """A worker's own guard was first."""
        merged = self._merged.get(message.model, {}).get(message.version)
        if merged is not None and merged.epoch == message.epoch:
            merged.is_lowered = True

    def left(self, source: object) -> None:
        """A source is gone."""
        for without in self._not_ready.values():
            without.pop(str(source), None)

    def hear(self, source: object, message: Counted, now_slot: int | None = None) -> None:
        """Evidence of one source; ``now_slot`` where sources count their slots each for itself (``Pooled.add``)."""
        for count in message.counts:
            document = self._documents.get(count.model)
            if document is None or not self._is_current(document, count.version, count.epoch, count.is_stable):
                continue
            self._note_stable(str(source), count)
            held = self._merged.setdefault(count.model, {})
            merged = held.get(count.version)
            if merged is None:
                merged = held[count.version] = Pooled(document, count.epoch, is_stable=count.is_stable)
            merged.add(str(source), count, now_slot)
            self._unjudged.add(count.model)
            self.changed.add(count.model)
        self._step_later()

    def step(self) -> None:
        """Judge everything that has changed."""
        self._stepping = None
        unjudged, self._unjudged = self._unjudged, set()
        all_burn = self._is_last()
        for model in unjudged:
            held = self._merged.get(model, {})
            trips = [(version, merged, merged.step(all_burn=all_burn)) for version, merged in held.items()]
            if any(merged.is_unsettled for merged in held.values()):
                self._unjudged.add(model)
            for version, merged, trip in trips:  # when stable has been stepped too
                if trip is None or merged.is_stable or merged.is_lowered:
                    continue
                if len(merged.sources) < self._least and trip.objective != FUSE:
                    merged.renew()
                else:
                    self._act(model, version, merged, trip)
        self._step_later()

    def stop(self) -> None:
        """Judge no more."""
        if self._stepping is not None:
            self._stepping.cancel()

    def status(self, model: str) -> dict[str, dict[str, Any]]:
        """By version, what is known of it over all sources."""
        return {
            version: {
                "evidence": merged.as_json(),
                "alarm": merged.alarm,
                "would_have_flipped": merged.would_have_flipped,
            }
            for version, merged in self._merged.get(model, {}).items()
        }

    def state(self, model: str) -> dict[str, Any]:
        """By version, what another judge goes on from; empty when nothing is known."""
        return {version: merged.as_state() for version, merged in self._merged.get(model, {}).items()}

    def restore(self, model: str, state: Mapping[str, Any]) -> None:
        """Go on from another judge's ``state``; what is not of this document's epochs is dropped."""
        document = self._documents.get(model)
        if document is None:
            return
        held = {}
        for version, plain in state.items():
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # of another release: begin anew
                merged = Pooled.from_state(document, plain)
                if self._is_current(document, version, merged.epoch, merged.is_stable):
                    held[version] = merged
        self._merged[model] = held

    def begin_anew(self) -> None:
        """Forget all evidence; documents stay."""
        self._merged, self._not_ready = {}, {}
        self._unjudged, self.changed = set(), set()

    @staticmethod
    def _is_current(document: RouteDocument, version: str, epoch: int, is_stable: bool) -> bool:
        route = document.route
        if version not in route.weights() or document.epoch.get(version, 0) != epoch:
            return False
        return is_stable == (version == route.stable)

    def _note_stable(self, source: str, count: Count) -> None:
        without = self._not_ready.setdefault(count.model, {})
        if count.stable_is_ready:
            without.pop(source, None)
        else:
            without[source] = monotonic()

    def _has_stable(self, model: str) -> bool:
        """Whether no source says of stable that it is not ready."""
        since_s = monotonic() - self._away_s
        return all(said_s < since_s for said_s in self._not_ready.get(model, {}).values())

    def _act(self, model: str, version: str, merged: Pooled, trip: Trip) -> None:
        document = self._documents[model]
        stable = self._merged[model].get(document.route.stable)
        name = ERRORS if trip.objective == FUSE else trip.objective
        if stable is not None and is_shared(stable.detector.evidence(name)):
            self._hold(document, version, merged, f"stable breaks {name} too: {trip.sentence()}")
        elif not self._has_stable(model):
            self._hold(document, version, merged, f"stable is not ready: {trip.sentence()}")
        elif not document.route.enforce:
            if not merged.would_have_flipped:
                merged.would_have_flipped = trip.sentence()
                self._say("would have flipped, enforce is false", document, version, merged, trip.sentence())
            merged.renew()
        else:
            merged.is_lowered = True
            self._say("flipped to stable", document, version, merged, trip.sentence())
            number = len(merged.sources)
            over = f", over {number} {self._over}" if number > 1 else ""
            self._lower(
                Lowered(
                    model,
                    version,
                    merged.epoch,
                    f"{trip.objective}: {trip.sentence()}{over}",
                    {
                        "objective": trip.objective,
                        "sentence": trip.sentence(),
                        "merged": True,
                        "over": {self._over: number},
                        "guard": merged.as_json(),
                        "stable": stable.as_json() if stable else None,
                    },
                )
            )

    def _hold(self, document: RouteDocument, version: str, merged: Pooled, reason: str) -> None:
        if not merged.alarm:
            self._say("weights kept, alarm", document, version, merged, reason)
        merged.alarm = reason
        merged.renew()

    def _step_later(self) -> None:
        if self._steps_itself and self._unjudged and self._stepping is None:
            self._stepping = asyncio.get_running_loop().call_later(FLUSH_S, self.step)

    def _say(self, event: str, document: RouteDocument, version: str, merged: Pooled, reason: str) -> None:
        log.warning(
            event,
            extra={
                "model": document.route.model,
                "version": version,
                "revision": document.revision,
                "epoch": merged.epoch,
                "reason": reason,
                "merged": True,
                "over": self._over,
            },
        )


def _read(data: bytes, known: RouteDocument | None) -> Document:
    """A document as workers follow it, of a newer release too."""
    try:
        return decode(data)
    except NewerSchema:
        return lowered_as_in(data, known)
