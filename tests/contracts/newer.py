"""A newer release, as far as its documents go: keys of its own everywhere, and a schema that this one does not know."""

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from routing.codec import as_json, encode
from routing.document import SCHEMA, RouteDocument
from routing.store import Draft, Record, Store, write

MARK = {"mood": {"of": ["a", "newer"], "release": 1}}


def places(plain: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a document that may have keys beside those that this release knows."""
    yield "", plain
    for part in ("route", "intervals", "guard"):
        yield part, plain[part]
    for variant in plain["route"]["variants"]:
        yield f"variant {variant['version']}", variant
    for version, latch in plain["guard"]["latched"].items():
        yield f"latch {version}", latch


def marked(document: RouteDocument, schema: int = SCHEMA) -> bytes:
    """The document as a newer release writes it."""
    plain = as_json(document)
    for _, place in list(places(plain)):
        place.update(MARK)
    return json.dumps({**plain, "schema": schema}).encode()


def unmarked(document: bytes) -> list[str]:
    """Places that have lost what the newer release wrote."""
    return [name for name, place in places(json.loads(document)) if place.get("mood") != MARK["mood"]]


async def write_newer(store: Store, make: Callable[[Any], Any], schema: int = SCHEMA) -> Record:
    """Change the stored document as plain data, as a newer release would."""

    def build(record: Record | None) -> Draft:
        assert record is not None
        plain = make(json.loads(record.document))
        for _, place in list(places(plain)):
            place.update(MARK)
        revision, change_id = record.revision + 1, secrets.token_hex(16)
        plain |= {"revision": revision, "change_id": change_id, "schema": schema}
        return Draft(revision, json.dumps(plain).encode(), "put")

    record = await write(
        store, "credit", build, actor="newer", reason="", at=0.0, change_id=secrets.token_hex(16), retries=20
    )
    assert record is not None
    return record


async def create(store: Store, document: RouteDocument) -> None:
    """The first revision, by this release."""
    change_id = secrets.token_hex(16)
    await write(
        store,
        document.model,
        lambda _: Draft(document.revision, encode(document), "put"),
        actor="ada",
        reason="",
        at=0.0,
        change_id=change_id,
    )
