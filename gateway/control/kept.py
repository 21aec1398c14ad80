"""What the judge over all gateways keeps of a route, as it comes back from the store."""

from collections.abc import Mapping
from typing import Any

import orjson

from routing.store import Junk

PLACE = "{turnout}:judged"
SAID = ("alarm", "would_have_flipped")


def state_in(model: str, data: bytes, junk: Junk) -> dict[str, dict[str, Any]] | None:
    """By version, what was kept of a route; None, and told of, where nobody of ours wrote it."""
    try:
        state = orjson.loads(data)
    except orjson.JSONDecodeError:
        state = None
    if isinstance(state, dict) and all(_is_kept(plain) for plain in state.values()):
        return state
    junk.tell(PLACE, f"what it says of {model!r} cannot be read: skipped")
    return None


def _is_kept(plain: Any) -> bool:
    return isinstance(plain, Mapping) and all(isinstance(plain.get(name, ""), str) for name in SAID)
