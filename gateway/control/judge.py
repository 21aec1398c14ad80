"""Judges what all workers saw together: a canary that is bad everywhere, and nowhere often enough to be found out."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from gateway.control.messages import Count, Counted, Lowered
from gateway.runtime.promises import slo_objectives
from routing.analysis.guard import KeyCap
from routing.analysis.merged import MergedDetector, is_shared
from routing.analysis.objective import Trip
from routing.codec import decode, lowered_as_in
from routing.document import Document, RouteDocument
from routing.errors import NewerSchema, RoutingError

log = logging.getLogger("turnout.guard")

FLUSH_S = 0.1


class _Merged:
    """What all workers know of one version in one epoch."""

    def __init__(self, document: RouteDocument, epoch: int, *, is_stable: bool) -> None:
        self._objectives = slo_objectives(document.route.slo)
        self._caps: dict[str, KeyCap] = {}
        self._pending: dict[str, tuple[int, int]] = {}
        self.epoch = epoch
        self.is_stable = is_stable
        self.detector = MergedDetector(self._objectives)
        self.attempts: dict[str, int] = {}
        self.hits: dict[str, int] = {}
        self.is_lowered = False
        self.alarm = ""
        self.would_have_flipped = ""

    def add(self, count: Count) -> None:
        """Take in what one worker saw. Two hits of one key are evidence, wherever they were seen."""
        for name, (attempts, keys) in count.deltas.items():
            cap = self._caps.setdefault(name, KeyCap())
            hits = sum(not cap.is_spent(key) for key in keys)
            before = self._pending.get(name, (0, 0))
            self._pending[name] = (before[0] + attempts, before[1] + hits)
            self.attempts[name] = self.attempts.get(name, 0) + attempts
            self.hits[name] = self.hits.get(name, 0) + hits

    def step(self) -> Trip | None:
        """Step the detector on what came since the last step."""
        pending, self._pending = self._pending, {}
        return self.detector.flush(pending)

    def renew(self) -> None:
        """Begin anew after an alarm that did not lower the version."""
        self.detector = MergedDetector(self._objectives)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers by objective."""
        return {
            o.name: {
                "p0": o.p0,
                "c": o.c,
                "odds": self.detector.evidence(o.name),
                "attempts": self.attempts.get(o.name, 0),
                "charged": self.hits.get(o.name, 0),
            }
            for o in self._objectives
        }


class Judge:
    """Steps a detector for each version on the sums of all workers, ``FLUSH_S`` after the first of them came.

    Args:
        lower: Receives what a guard in a worker would have sent.
    """

    def __init__(self, lower: Callable[[Lowered], None]) -> None:
        self._lower = lower
        self._documents: dict[str, RouteDocument] = {}
        self._merged: dict[str, dict[str, _Merged]] = {}
        self._not_ready: dict[str, set[int]] = {}
        self._stepping: asyncio.TimerHandle | None = None
        self._changed: set[str] = set()

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
        self._merged[model] = {v: m for v, m in held.items() if self._is_current(document, v, m.epoch, m.is_stable)}

    def forget(self, model: str) -> None:
        """There is no such route any more."""
        self._documents.pop(model, None)
        self._merged.pop(model, None)
        self._not_ready.pop(model, None)

    @property
    def models(self) -> list[str]:
        """Models that have a route."""
        return sorted(self._documents)

    def lowered(self, message: Lowered) -> None:
        """A worker's own guard was first."""
        merged = self._merged.get(message.model, {}).get(message.version)
        if merged is not None and merged.epoch == message.epoch:
            merged.is_lowered = True

    def left(self, worker: int) -> None:
        """A worker is gone."""
        for without in self._not_ready.values():
            without.discard(worker)

    def hear(self, worker: int, message: Counted) -> None:
        """Evidence of one worker."""
        for count in message.counts:
            document = self._documents.get(count.model)
            if document is None or not self._is_current(document, count.version, count.epoch, count.is_stable):
                continue
            self._note_stable(worker, count)
            held = self._merged.setdefault(count.model, {})
            merged = held.get(count.version)
            if merged is None:
                merged = held[count.version] = _Merged(document, count.epoch, is_stable=count.is_stable)
            merged.add(count)
            self._changed.add(count.model)
        if self._changed and self._stepping is None:
            self._stepping = asyncio.get_running_loop().call_later(FLUSH_S, self.step)

    def step(self) -> None:
        """Judge everything that has changed."""
        self._stepping = None
        changed, self._changed = self._changed, set()
        for model in changed:
            held = self._merged.get(model, {})
            trips = [(version, merged, merged.step()) for version, merged in held.items()]
            for version, merged, trip in trips:  # when stable has been stepped too
                if trip is not None and not merged.is_stable and not merged.is_lowered:
                    self._act(model, version, merged, trip)

    def stop(self) -> None:
        """Judge no more."""
        if self._stepping is not None:
            self._stepping.cancel()

    def status(self, model: str) -> dict[str, dict[str, Any]]:
        """By version, what is known of it over all workers."""
        return {
            version: {
                "evidence": merged.as_json(),
                "alarm": merged.alarm,
                "would_have_flipped": merged.would_have_flipped,
            }
            for version, merged in self._merged.get(model, {}).items()
        }

    @staticmethod
    def _is_current(document: RouteDocument, version: str, epoch: int, is_stable: bool) -> bool:
        route = document.route
        if version not in route.weights() or document.epoch.get(version, 0) != epoch:
            return False
        return is_stable == (version == route.stable)

    def _note_stable(self, worker: int, count: Count) -> None:
        without = self._not_ready.setdefault(count.model, set())
        (without.discard if count.stable_is_ready else without.add)(worker)

    def _act(self, model: str, version: str, merged: _Merged, trip: Trip) -> None:
        document = self._documents[model]
        stable = self._merged[model].get(document.route.stable)
        if stable is not None and is_shared(stable.detector.evidence(trip.objective)):
            self._hold(document, version, merged, f"stable breaks {trip.objective} too: {trip.sentence()}")
        elif self._not_ready.get(model):
            self._hold(document, version, merged, f"stable is not ready: {trip.sentence()}")
        elif not document.route.enforce:
            if not merged.would_have_flipped:
                merged.would_have_flipped = trip.sentence()
                self._say("would have flipped, enforce is false", document, version, merged, trip.sentence())
            merged.renew()
        else:
            merged.is_lowered = True
            self._say("flipped to stable", document, version, merged, trip.sentence())
            self._lower(
                Lowered(
                    model,
                    version,
                    merged.epoch,
                    f"{trip.objective}: {trip.sentence()}, over all workers",
                    {
                        "objective": trip.objective,
                        "sentence": trip.sentence(),
                        "merged": True,
                        "guard": merged.as_json(),
                        "stable": stable.as_json() if stable else None,
                    },
                )
            )

    def _hold(self, document: RouteDocument, version: str, merged: _Merged, reason: str) -> None:
        if not merged.alarm:
            self._say("weights kept, alarm", document, version, merged, reason)
        merged.alarm = reason
        merged.renew()

    @staticmethod
    def _say(event: str, document: RouteDocument, version: str, merged: _Merged, reason: str) -> None:
        log.warning(
            event,
            extra={
                "model": document.route.model,
                "version": version,
                "revision": document.revision,
                "epoch": merged.epoch,
                "reason": reason,
                "merged": True,
            },
        )


def _read(data: bytes, known: RouteDocument | None) -> Document:
    """A document as workers follow it, of a newer release too."""
    try:
        return decode(data)
    except NewerSchema:
        return lowered_as_in(data, known)
