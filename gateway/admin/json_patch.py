"""Plain JSON against plain JSON: merging a patch, and telling what changed."""

from collections.abc import Iterator, Mapping
from typing import Any

ABSENT: Any = object()


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch; neither argument is changed.

    Objects merge key by key, ``null`` removes a key, everything else, lists too, is put in place of what was there.

    Source:
        RFC 7396, section 2.
    """
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def diff(before: Any, after: Any) -> list[dict[str, Any]]:
    """Every smallest place that differs, in the order of ``before``, then what is new.

    Returns:
        ``{"pointer", "before", "after"}`` for each, with a JSON Pointer (RFC 6901); ``None`` stands for what is not
        there. Empty exactly when both are the same JSON.
    """
    return [
        {"pointer": pointer, "before": _shown(old), "after": _shown(new)}
        for pointer, old, new in _differences("", before, after)
    ]


def _differences(at: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            place = f"{at}/{key.replace('~', '~0').replace('/', '~1')}"
            yield from _differences(place, before.get(key, ABSENT), after.get(key, ABSENT))
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            old = before[index] if index < len(before) else ABSENT
            new = after[index] if index < len(after) else ABSENT
            yield from _differences(f"{at}/{index}", old, new)
    elif isinstance(before, bool) != isinstance(after, bool) or before != after:  # True is 1 in Python, not in JSON
        yield at, before, after


def _shown(value: Any) -> Any:
    return None if value is ABSENT else value
