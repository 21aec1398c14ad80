"""A document compiled for choosing: one hash and one bisect a request."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from routing.document import RouteDocument
from routing.hashing import bucket, shadow_salt, split_salt
from routing.intervals import Piece, complement


class SplitPlan:
    """Where each stored interval ends, beside the arm that owns it."""

    __slots__ = ("_arms", "_ends", "_salt")

    def __init__(self, salt: bytes, pieces: Sequence[tuple[Piece, int]]) -> None:
        """Take pieces that cover ``[0, 1_000_000)`` without overlap, each with its arm's index."""
        ordered = sorted(pieces)
        self._salt = salt
        self._ends = [end for (_, end), _ in ordered]
        self._arms = [arm for _, arm in ordered]

    def choose(self, key: bytes) -> int:
        """Index of the arm that owns ``key``."""
        return self._arms[bisect_right(self._ends, bucket(self._salt, key))]

    def at(self, point_ppm: int) -> int:
        """Index of the arm that owns a point in ``range(1_000_000)``; for draws without a key."""
        return self._arms[bisect_right(self._ends, point_ppm)]


def split_plan(document: RouteDocument, arm_of: Mapping[str, int]) -> SplitPlan:
    """Compile the stored intervals; ``arm_of`` gives each version's index, stable's among them."""
    pieces = document.intervals.pieces
    owned = [(piece, arm_of[version]) for version, own in pieces.items() for piece in own]
    stable = arm_of[document.route.stable]
    free = [(piece, stable) for piece in complement(piece for piece, _ in owned)]
    return SplitPlan(split_salt(document.salt, document.intervals.draw), owned + free)


def in_shadow_sample(document: RouteDocument, version: str, sample_ppm: int, key: bytes) -> bool:
    """Whether the requests of ``key`` are copied to the shadow ``version``; unrelated to its variant."""
    return bucket(shadow_salt(document.salt, document.intervals.draw, version), key) < sample_ppm
