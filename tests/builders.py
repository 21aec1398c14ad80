"""Small builders with defaults; a test states every number it asserts on."""

from typing import Any

from routing.document import RouteDocument
from routing.edit import Replace, next_document
from routing.parse import parse_route
from routing.table import Route

CHANGE_ID = "0" * 32


def route(model: str = "credit", stable: str = "1", weights: dict[str, float] | None = None, **parts: Any) -> Route:
    """A route; ``weights`` in percent by version."""
    variants = [{"version": v, "weight": w} for v, w in (weights or {"1": 95, "2": 5}).items()]
    return parse_route({"model": model, "stable": stable, "variants": variants, **parts})


def document(*edits: Route, **parts: Any) -> RouteDocument:
    """The document after the given routes were put in turn; by default 95/5 between 1 and 2."""
    current = None
    for edit in edits or (route(**parts),):
        following = next_document(current, Replace(edit), CHANGE_ID)
        assert following is None or isinstance(following, RouteDocument)
        current = following or current
    assert current is not None
    return current
