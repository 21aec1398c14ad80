"""Warnings over time: told once when they come and once when they have gone, whatever they do in between."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.metrics.families import WARNINGS
from gateway.metrics.totals import Labels, Samples
from gateway.runtime.warnings import RouteWarning

LOOKS = 2  # in a row that see a warning before it is told of
CLEAR_S = 30.0  # a warning that has been away for so long is over

Key = tuple[str, str, str, str]  # model, then that of a warning


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning has come, or is over."""

    model: str
    warning: RouteWarning
    is_over: bool

    @property
    def event(self) -> Literal["warning", "cleared"]:
        """Type of the event that tells of it."""
        return "cleared" if self.is_over else "warning"

    def as_json(self, replica: str) -> dict[str, str]:
        """Plain data of that event."""
        warning = self.warning
        return {
            "model": self.model,
            "version": warning.version,
            "kind": warning.kind,
            "warning": warning.sentence,
            "replica": replica,
        }


@dataclass(slots=True)
class _Seen:
    warning: RouteWarning
    last_s: float
    looks: int = 0
    is_told: bool = False


class Notices:
    """What has been told of the warnings of one gateway."""

    def __init__(self) -> None:
        self._seen: dict[Key, _Seen] = {}

    def look(self, found: Mapping[str, Iterable[RouteWarning]], now_s: float) -> list[Notice]:
        """Take what there is now, by model; returns what is to be told.

        A model that is not among ``found`` has no warnings any more, at once.
        """
        current = {(model, *warning.key): warning for model, warnings in found.items() for warning in warnings}
        told = [notice for key, warning in current.items() if (notice := self._there(key, warning, now_s))]
        for key, seen in list(self._seen.items()):
            if key not in current and self._is_over(key, seen, found, now_s):
                del self._seen[key]
                if seen.is_told:
                    told.append(Notice(key[0], seen.warning, is_over=True))
        return told

    def _there(self, key: Key, warning: RouteWarning, now_s: float) -> Notice | None:
        seen = self._seen.setdefault(key, _Seen(warning, now_s))
        seen.warning, seen.last_s, seen.looks = warning, now_s, seen.looks + 1
        if seen.is_told or seen.looks < LOOKS:
            return None
        seen.is_told = True
        return Notice(key[0], warning, is_over=False)

    @staticmethod
    def _is_over(key: Key, seen: _Seen, found: Mapping[str, object], now_s: float) -> bool:
        if not seen.is_told:
            return True  # it takes ``LOOKS`` in a row
        return key[0] not in found or now_s - seen.last_s >= CLEAR_S

    def samples(self) -> Samples:
        """Those that are told of and not over, for the metrics."""
        counts: dict[Labels, int] = {}
        for model, kind, version, _ in (key for key, seen in self._seen.items() if seen.is_told):
            labels = kind, model, version
            counts[labels] = counts.get(labels, 0) + 1
        return {WARNINGS.name: {**counts}}
