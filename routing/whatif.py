"""Who would move: two documents of a route compared over the whole key space, without a single request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from routing.document import Document, RouteDocument
from routing.intervals import Piece, complement
from routing.split import split_plan
from routing.table import PPM


@dataclass(frozen=True, slots=True)
class Move:
    """Keys that would go from one version to another, as a share of all."""

    source: str
    target: str
    ppm: int


@dataclass(frozen=True, slots=True)
class KeyMove:
    """One key's version before (None: no route yet) and after."""

    key: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What an edit would do to callers.

    Attributes:
        before: Share of each version in ppm; empty when there is no route yet.
        after: The same afterwards.
        gains: By version that grows, by how much.
        moved_ppm: Share of keys that would change their version.
        moves: From where to where, largest first; they add up to ``moved_ppm``.
        is_exact: False when a new salt draws every key anew: the moves are then what to expect.
        notes: What numbers do not say, for people.
        keys: The keys that were asked for.
    """

    before: dict[str, int]
    after: dict[str, int]
    gains: dict[str, int]
    moved_ppm: int
    moves: tuple[Move, ...]
    is_exact: bool
    notes: tuple[str, ...]
    keys: tuple[KeyMove, ...]


def what_if(before: Document | None, after: RouteDocument, keys: Sequence[str] = ()) -> WhatIf:
    """Compare the stored document with the one an edit would make of it."""
    old = before if isinstance(before, RouteDocument) else None
    is_exact = old is None or _drawn_with(old) == _drawn_with(after)
    moves = () if old is None else _overlaps(old, after) if is_exact else _expected(old, after)
    shares = _shares(old) if old else {}
    then = _shares(after)
    return WhatIf(
        before=shares,
        after=then,
        gains={v: ppm - shares.get(v, 0) for v, ppm in then.items() if old and ppm > shares.get(v, 0)},
        moved_ppm=sum(move.ppm for move in moves),
        moves=moves,
        is_exact=is_exact,
        notes=tuple(_notes(old, after, is_exact=is_exact)),
        keys=_followed(old, after, keys),
    )


def owners(document: RouteDocument) -> list[tuple[Piece, str]]:
    """The whole key space as ascending pieces, each with the version that owns it."""
    owned = [(piece, version) for version, own in document.intervals.pieces.items() for piece in own]
    free = complement(piece for piece, _ in owned)
    return sorted([*owned, *((piece, document.route.stable) for piece in free)])


def _drawn_with(document: RouteDocument) -> tuple[str, int]:
    return document.salt, document.intervals.draw


def _shares(document: RouteDocument) -> dict[str, int]:
    shares = dict.fromkeys(document.route.weights(), 0)
    for (start, end), version in owners(document):
        shares[version] += end - start
    return shares


def _overlaps(old: RouteDocument, new: RouteDocument) -> tuple[Move, ...]:
    """Walk both key spaces at once: each stretch has one owner before and one after."""
    moved: dict[tuple[str, str], int] = {}
    before, after = owners(old), owners(new)
    i = j = at = 0
    while at < PPM:
        (_, end_before), source = before[i]
        (_, end_after), target = after[j]
        end = min(end_before, end_after)
        if source != target:
            moved[source, target] = moved.get((source, target), 0) + end - at
        at = end
        i, j = i + (end == end_before), j + (end == end_after)
    return _sorted(moved)


def _expected(old: RouteDocument, new: RouteDocument) -> tuple[Move, ...]:
    """Two salts place keys independently: shares multiply."""
    pairs = {(a, b): p * q // PPM for a, p in _shares(old).items() for b, q in _shares(new).items() if a != b}
    return _sorted({pair: ppm for pair, ppm in pairs.items() if ppm})


def _sorted(moved: dict[tuple[str, str], int]) -> tuple[Move, ...]:
    found = [Move(source, target, ppm) for (source, target), ppm in moved.items()]
    return tuple(sorted(found, key=lambda move: (-move.ppm, move.source, move.target)))


def _followed(old: RouteDocument | None, new: RouteDocument, keys: Sequence[str]) -> tuple[KeyMove, ...]:
    before, after = _chooser(old) if old else (lambda _: None), _chooser(new)
    return tuple(KeyMove(key, before(key), after(key)) for key in keys)


def _chooser(document: RouteDocument) -> Callable[[str], str]:
    versions = [*document.route.weights()]
    plan = split_plan(document, {version: index for index, version in enumerate(versions)})
    return lambda key: versions[plan.choose(key.encode())]


def _notes(old: RouteDocument | None, new: RouteDocument, *, is_exact: bool) -> list[str]:
    found = []
    if old is None:
        found.append("there is no route yet: nobody moves")
    if not is_exact:
        found.append("a new salt draws every key anew: the moves are expected shares, not exact ones")
    sticky, before = new.route.sticky, old.route.sticky if old else None
    if sticky is None:
        found.append("without `sticky` each request is drawn anew: shares change, no caller stays anywhere")
    elif before is not None and sticky.by != before.by:
        found.append("keys are taken from other places than before: who has which key changes too")
    return found
