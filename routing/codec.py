"""Documents to bytes and back, tolerant of a newer release's keys, which are kept and written back."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from routing.document import SCHEMA, DeletedRoute, Document, Intervals, Latch, RouteDocument, Unknown
from routing.errors import InvalidDocument, NewerSchema, Problem
from routing.table import PPM, Route, Variant


def as_json(document: Document) -> dict[str, Any]:
    """The plain form of a document, with the unknown keys where they were."""
    plain = document.model_dump(mode="json", by_alias=True)
    if isinstance(document, RouteDocument):
        for path, value in document.unknown:
            _put(plain, path, value)
    return plain


def encode(document: Document) -> bytes:
    """The stored form."""
    return _written(as_json(document))


def decode(data: bytes) -> Document:
    """Read a stored document.

    Raises:
        NewerSchema: A newer release wrote it; ``lowered_as_in`` still takes its weights and latches.
        InvalidDocument: It is no document.
    """
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument([Problem("", "json", f"the stored document is no JSON: {error}")]) from None
    if not isinstance(plain, dict):
        raise InvalidDocument([Problem("", "type", "the stored document is no object")])
    schema = plain.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerSchema(_model(plain), schema, SCHEMA)
    kind = DeletedRoute if plain.get("deleted") is True else RouteDocument
    unknown: list[Unknown] = []
    while True:
        try:
            document = kind.model_validate(plain)
        except ValidationError as error:
            details = error.errors(include_url=False)
            extra = [d["loc"] for d in details if d["type"] == "extra_forbidden"]
            if not extra:  # else look again without them: a list whose every item has one counts as empty
                problems = [Problem("/" + "/".join(map(str, d["loc"])), "stored", d["msg"]) for d in details]
                raise InvalidDocument(problems) from None
            unknown += [_cut(plain, loc) for loc in extra]
        else:
            return document.model_copy(update={"unknown": tuple(unknown)}) if unknown else document


def lowered_as_in(data: bytes, known: RouteDocument | None) -> Document:
    """What can be obeyed of a newer release's document: who is stable, weights, intervals, latches, epochs, deletion.

    All else stays as in ``known``, the last one that could be read. A version that is not known, or has another backend
    than the known one, cannot be served: its share is stable's. So is the share of a latched one, whatever the document
    says. A new stable that is not known leaves the old one in its place. Without ``known``, the document is read as if
    it were of this release.

    Raises:
        InvalidDocument: Not even these can be read.
    """
    try:
        plain = json.loads(data)
        if known is None or plain.get("deleted") is True:
            document = decode(_written({**plain, "schema": SCHEMA}))
            if not isinstance(document, RouteDocument):
                return document
            known = document
        return _followed(plain, known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidDocument([Problem("", "stored", f"a newer document that cannot be followed: {error}")]) from None


def _followed(plain: Mapping[str, Any], known: RouteDocument) -> RouteDocument:
    route = known.route
    mine = {v.version for v in route.variants if v.version == route.stable or _same_backend(plain, route, v.version)}
    latches = {
        version: Latch(at=str(latch["at"]), reason=str(latch["reason"]), evidence=latch.get("evidence"))
        for version, latch in plain["guard"]["latched"].items()
    }
    stable = plain["route"]["stable"] if plain["route"]["stable"] in mine else route.stable
    weights = dict.fromkeys(route.weights(), 0)
    for variant in plain["route"]["variants"]:
        if variant["version"] in mine and variant["version"] not in latches:
            weights[variant["version"]] = Variant(
                version=variant["version"], weight_ppm=variant["weight_ppm"]
            ).weight_ppm
    weights[stable] = PPM - sum(ppm for version, ppm in weights.items() if version != stable)
    pieces = {v: own for v, own in plain["intervals"]["pieces"].items() if v != stable and weights.get(v)}
    intervals = Intervals.model_validate({"draw": plain["intervals"]["draw"], "pieces": pieces})
    epoch = {version: int(number) for version, number in plain["epoch"].items() if version in known.epoch}
    return known.model_copy(
        update={
            "revision": int(plain["revision"]),
            "route": route.model_copy(
                update={
                    "stable": stable,
                    "variants": tuple(Variant(version=v, weight_ppm=w) for v, w in weights.items()),
                }
            ),
            "intervals": intervals,
            "guard": known.guard.model_copy(update={"latched": latches}),
            "epoch": known.epoch | epoch,
        }
    )


def _same_backend(plain: Mapping[str, Any], route: Route, version: str) -> bool:
    """Whether all that this release knows of a version's backend is the same there."""
    its, mine = plain["route"].get("backends", {}).get(version), route.backends.get(version)
    if its is None or mine is None:
        return its is mine
    return all(its.get(key) == value for key, value in mine.model_dump(mode="json").items())


def _written(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()


def _model(plain: Mapping[str, Any]) -> str:
    route = plain.get("route")
    return str(route.get("model", "")) if isinstance(route, Mapping) else str(plain.get("model", ""))


def _cut(plain: Any, loc: tuple[int | str, ...]) -> Unknown:
    """Take the value at pydantic's location out of plain data; its path names list items by their version."""
    path: list[str] = []
    at = plain
    for part in loc[:-1]:
        if isinstance(at, list) and isinstance(part, int):
            at = at[part]
            path.append(str(at.get("version", part)))
        elif isinstance(at, dict) and part in at:
            at = at[part]
            path.append(str(part))
        # Anything else is the tag that pydantic puts into the location of a union.
    last = str(loc[-1])
    return (*path, last), at.pop(last)


def _put(plain: Any, path: tuple[str, ...], value: Any) -> None:
    """Put a cut value back, unless an edit took away the place it stood in."""
    at = plain
    for part in path[:-1]:
        if isinstance(at, list):
            at = next((item for item in at if item.get("version") == part), None)
        else:
            at = at.get(part) if isinstance(at, dict) else None
        if at is None:
            return
    if isinstance(at, dict):
        at.setdefault(path[-1], value)
