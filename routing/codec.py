"""Documents to bytes and back, tolerant of a newer release's keys, which are kept and written back."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from routing.document import SCHEMA, DeletedRoute, Document, Guard, Intervals, RouteDocument, Unknown
from routing.errors import InvalidDocument, NewerSchema, Problem
from routing.table import Variant


def as_json(document: Document) -> dict[str, Any]:
    """The plain form of a document, with the unknown keys where they were."""
    plain = document.model_dump(mode="json", by_alias=True)
    if isinstance(document, RouteDocument):
        for path, value in document.unknown:
            _put(plain, path, value)
    return plain


def encode(document: Document) -> bytes:
    """The stored form."""
    return json.dumps(as_json(document), separators=(",", ":"), ensure_ascii=False).encode()


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
            if len(extra) < len(details):
                problems = [Problem("/" + "/".join(map(str, d["loc"])), "stored", d["msg"]) for d in details]
                raise InvalidDocument(problems) from None
            unknown += [_cut(plain, loc) for loc in extra]
        else:
            return document.model_copy(update={"unknown": tuple(unknown)}) if unknown else document


def lowered_as_in(data: bytes, known: RouteDocument) -> RouteDocument:
    """Weights, intervals and latches of a newer release's document over the last one we could read.

    Raises:
        InvalidDocument: Not even these can be read.
    """
    plain = json.loads(data)
    try:
        weights = {Variant.model_validate(v).version: v["weight_ppm"] for v in plain["route"]["variants"]}
        intervals = Intervals.model_validate(plain["intervals"])
        guard = Guard.model_validate(plain["guard"])
        revision, epoch = int(plain["revision"]), dict(plain["epoch"])
        stable = plain["route"]["stable"]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidDocument([Problem("", "stored", f"a newer document that cannot be followed: {error}")]) from None
    mine = known.route
    if stable != mine.stable or any(w and v not in mine.weights() for v, w in weights.items()):
        raise InvalidDocument([Problem("/route", "stored", "a newer document names versions that are not known here")])
    variants = tuple(Variant(version=v.version, weight_ppm=weights.get(v.version, 0)) for v in mine.variants)
    return known.model_copy(
        update={
            "revision": revision,
            "route": mine.model_copy(update={"variants": variants}),
            "intervals": intervals,
            "guard": guard,
            "epoch": known.epoch | {v: e for v, e in epoch.items() if v in known.epoch},
        }
    )


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
