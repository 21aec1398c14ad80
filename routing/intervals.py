"""Which keys a version owns, as intervals in ppm, and how an edit moves as few of them as it can.

Every version but stable has its pieces stored; stable owns what is left. The laws (tests hold them over random
edits): the keys that move are exactly the sum of the gains, and a version that grows keeps all it had.
"""

from collections.abc import Iterable, Mapping

from routing.errors import InvalidDocument, Problem
from routing.table import PPM

MAX_PIECES = 16  # a version; more says the salt has seen too many edits

Piece = tuple[int, int]
Pieces = tuple[Piece, ...]


def size(pieces: Iterable[Piece]) -> int:
    """Total length in ppm."""
    return sum(end - start for start, end in pieces)


def complement(pieces: Iterable[Piece]) -> list[Piece]:
    """What of ``[0, 1_000_000)`` the pieces leave free, ascending."""
    free, at = [], 0
    for start, end in sorted(pieces):
        if start > at:
            free.append((at, start))
        at = max(at, end)
    if at < PPM:
        free.append((at, PPM))
    return free


def merged(pieces: Iterable[Piece]) -> Pieces:
    """Ascending, with touching pieces joined."""
    out: list[Piece] = []
    for start, end in sorted(pieces):
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], end)
        elif end > start:
            out.append((start, end))
    return tuple(out)


def _cut_end(pieces: Iterable[Piece], amount: int) -> tuple[list[Piece], list[Piece]]:
    """Split off ``amount`` from the end: what stays, what is given back."""
    keep, back = sorted(pieces), []
    while amount:
        start, end = keep.pop()
        taken = min(amount, end - start)
        if end - taken > start:
            keep.append((start, end - taken))
        back.append((end - taken, end))
        amount -= taken
    return keep, back


def _take_low(pool: list[Piece], amount: int) -> tuple[list[Piece], list[Piece]]:
    """Take up to ``amount`` from the low end of ``pool``: what was taken, what is left of it."""
    taken, rest = [], []
    for start, end in sorted(pool):
        part = min(amount, end - start)
        if part:
            taken.append((start, start + part))
        if start + part < end:
            rest.append((start + part, end))
        amount -= part
    return taken, rest


def redraw(
    pieces: Mapping[str, Pieces], old_stable: str, new_stable: str, weights_ppm: Mapping[str, int]
) -> dict[str, Pieces]:
    """Pieces after an edit of weights or of stable.

    A version that shrinks gives back from its end. One that grows takes first what others give back in the same
    edit, then the lowest that stable owns. A change of stable alone moves no key.

    Args:
        pieces: Stored pieces before the edit, ``old_stable`` not among them.
        old_stable: Owner of what ``pieces`` leave free.
        new_stable: Owner of what the result leaves free.
        weights_ppm: Weights after the edit, which add up to 1,000,000.

    Raises:
        InvalidDocument: A version would own more than ``MAX_PIECES`` pieces.
    """
    owned: dict[str, list[Piece]] = {version: list(own) for version, own in pieces.items()}
    owned[old_stable] = complement(piece for own in pieces.values() for piece in own)
    free = owned.pop(new_stable, [])
    back: list[Piece] = []
    for version, own in owned.items():
        surplus = size(own) - weights_ppm.get(version, 0)
        if surplus > 0:
            owned[version], given = _cut_end(own, surplus)
            back += given
    for version, weight in weights_ppm.items():
        if version == new_stable:
            continue
        own = owned.setdefault(version, [])
        for pool in (back, free):
            taken, pool[:] = _take_low(pool, weight - size(own))
            own += taken
    result = {version: joined for version, own in owned.items() if (joined := merged(own))}
    _check_pieces(result)
    return result


def _check_pieces(pieces: Mapping[str, Pieces]) -> None:
    problems = [
        Problem(
            "/variants",
            "too_many_pieces",
            f"version {version!r} would own {len(own)} separate pieces of the key space, {MAX_PIECES} at most: "
            "draw again with a new sticky salt",
        )
        for version, own in pieces.items()
        if len(own) > MAX_PIECES
    ]
    if problems:
        raise InvalidDocument(problems)
