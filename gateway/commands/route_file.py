"""A route on its way from a file to JSON: only what JSON would change silently is refused here."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.errors import InvalidSettings
from gateway.settings_file import parse_yaml, read_yaml
from routing.errors import Problem
from routing.table import NAME_PATTERN

MAX_DEPTH = 32
QUOTE_IT = "write it in quotes, it is text"


def read_route(file: str) -> tuple[str, Mapping[str, Any]]:
    """Model and route of a file, ``-`` for standard input. The admin plane checks the rest.

    Raises:
        InvalidSettings: It cannot be read, names no model, or is not JSON in other words.
    """
    plain = _standard_input() if file == "-" else read_yaml(Path(file))
    if not isinstance(plain, dict):
        raise InvalidSettings([Problem("", "type", f"{file} is not a route: a mapping with model, stable, variants")])
    problems = list(_no_json("", plain, 0))
    model = plain.get("model")
    if "model" not in plain:
        problems.append(Problem("/model", "missing", "this key is required"))
    elif not isinstance(model, str) or re.fullmatch(NAME_PATTERN, model) is None:
        problems.append(Problem("/model", "type", f"{model!r} is no name: letters, digits, '.', '_', '-', in quotes"))
    if problems:
        raise InvalidSettings(problems)
    return str(model), plain


def _standard_input() -> Any:
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidSettings([Problem("", "yaml", f"standard input is no UTF-8: {error}")]) from None
    return parse_yaml(text, "standard input")


def _no_json(at: str, value: Any, depth: int) -> Iterator[Problem]:
    """What YAML has and JSON has not: dates, sets, keys that are no text, mappings that contain themselves."""
    if depth > MAX_DEPTH:
        yield Problem(at, "depth", f"nothing is nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, dict):
        for key, item in value.items():
            place = f"{at}/{str(key).replace('~', '~0').replace('/', '~1')}"
            if isinstance(key, str):
                yield from _no_json(place, item, depth + 1)
            else:
                yield Problem(place, "type", f"the key {key!r}: {QUOTE_IT}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _no_json(f"{at}/{index}", item, depth + 1)
    elif not isinstance(value, (str, int, float, bool, type(None))):
        yield Problem(at, "type", f"{type(value).__name__} {value!s:.40}: {QUOTE_IT}")
