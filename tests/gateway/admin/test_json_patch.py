import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admin.json_patch import diff, merge_patch

KEYS = st.sampled_from(["a", "b", "a/b", "~", ""])
SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x"])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)

# RFC 7396, appendix A.
EXAMPLES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


def canonical(value: Any) -> Any:
    """Python's equality takes True for 1; JSON's does not."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return type(value).__name__, value


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def patch_between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if isinstance(before.get(key), dict) and isinstance(value, dict):
            patch[key] = patch_between(before[key], value)
        else:
            patch[key] = value
    return patch


def at(value: Any, pointer: str) -> Any:
    """What stands at a pointer; None when nothing does."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        items = dict(enumerate(value)) if isinstance(value, list) else value
        value = items.get(int(key) if isinstance(value, list) else key)
    return value


@pytest.mark.parametrize(("target", "patch", "merged"), EXAMPLES)
def test_merging_agrees_with_the_examples_of_the_rfc(target: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(target, patch) == merged


@settings(derandomize=True)
@given(JSON, JSON)
def test_a_patch_applied_twice_does_what_it_does_once_and_leaves_its_arguments_alone(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    once = merge_patch(target, patch)
    assert canonical(merge_patch(once, patch)) == canonical(once)
    assert (target, patch) == before


@settings(derandomize=True)
@given(OBJECTS, OBJECTS)
def test_the_patch_between_two_objects_turns_one_into_the_other(before: Any, after: Any) -> None:
    before, after = without_nulls(before), without_nulls(after)
    assert canonical(merge_patch(before, patch_between(before, after))) == canonical(after)


@settings(derandomize=True)
@given(OBJECTS)
def test_an_empty_patch_changes_nothing(target: Any) -> None:
    assert merge_patch(target, {}) == target


@settings(derandomize=True)
@given(st.tuples(JSON, JSON))
def test_a_difference_is_shown_where_it_is_and_only_there(pair: tuple[Any, Any]) -> None:
    before, after = pair
    for found in diff(before, after):
        assert canonical(at(before, found["pointer"])) == canonical(found["before"])
        assert canonical(at(after, found["pointer"])) == canonical(found["after"])
    assert (diff(before, after) == []) == (canonical(before) == canonical(after))


def test_a_difference_names_the_smallest_place() -> None:
    before = {"variants": [{"version": "1", "weight_ppm": 950_000}], "slo": None, "enforce": True}
    after = {"variants": [{"version": "1", "weight_ppm": 1_000_000}], "slo": {"errors": 1}, "enforce": 1}
    assert diff(before, after) == [
        {"pointer": "/variants/0/weight_ppm", "before": 950_000, "after": 1_000_000},
        {"pointer": "/slo", "before": None, "after": {"errors": 1}},
        {"pointer": "/enforce", "before": True, "after": 1},
    ]
