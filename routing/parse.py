"""Plain data to values: strict, and with every problem at once, each with its JSON Pointer."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from routing.errors import InvalidDocument, Problem
from routing.table import MAX_URLS, PPM, OipSpec, OnnxSpec, Route, TritonSpec

RESERVED_MODEL_NAMES = frozenset({"stats"})
PPM_PER_PERCENT = 10_000


def parse_json(text: bytes | str) -> Any:
    """Decode JSON, refusing duplicate keys and the ``NaN`` spellings.

    Raises:
        InvalidDocument: With the place of a syntax error, or the repeated key.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidDocument([Problem("", "json", "the JSON is nested too deeply")]) from None
    except ValueError as error:
        raise InvalidDocument([Problem("", "json", f"this is no valid JSON: {error}")]) from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated!r} stands twice in one object")
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def parse_route(data: object) -> Route:
    """Build a route from plain data, as it stands in a file or in a request to the admin plane.

    ``weight`` and ``sample`` are percent, ``weight_ppm`` and ``sample_ppm`` parts per million; one of each pair.

    Raises:
        InvalidDocument: With all problems.
    """
    if not isinstance(data, Mapping):
        raise InvalidDocument([Problem("", "type", "a route is an object with `model`, `stable` and `variants`")])
    problems: list[Problem] = []
    plain = dict(data)
    renamed: dict[str, str] = {}
    for key, percent, ppm in (("variants", "weight", "weight_ppm"), ("shadows", "sample", "sample_ppm")):
        items = plain.get(key)
        if isinstance(items, (list, tuple)):
            plain[key] = [
                _in_ppm(item, f"/{key}/{index}", percent, ppm, problems, renamed) for index, item in enumerate(items)
            ]
    try:
        route = Route.model_validate(plain)
    except ValidationError as error:
        known = {problem.pointer for problem in problems}
        details = [d for d in error.errors(include_url=False) if d["type"] != "too_short" or not d["input"]]
        found = [_problem(detail, renamed) for detail in details]
        problems += [p for p in found if p.pointer not in known]
        raise InvalidDocument(sorted(problems, key=lambda p: p.pointer)) from None
    problems += check_route(route, renamed)
    if problems:
        raise InvalidDocument(problems)
    return route


def _in_ppm(item: Any, at: str, percent: str, ppm: str, problems: list[Problem], renamed: dict[str, str]) -> Any:
    """Replace a percentage by exact parts per million."""
    if not isinstance(item, Mapping) or percent not in item:
        return item
    out = {key: value for key, value in item.items() if key != percent}
    renamed[f"{at}/{ppm}"] = f"{at}/{percent}"
    value = item[percent]
    if ppm in item:
        problems.append(Problem(f"{at}/{percent}", "both", f"give `{percent}` or `{ppm}`, not both"))
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        problems.append(Problem(f"{at}/{percent}", "type", f"`{percent}` is a number of percent, 0 to 100"))
        out[ppm] = 0
    elif not 0 <= value <= 100:
        problems.append(Problem(f"{at}/{percent}", "range", f"`{percent}` is not between 0 and 100 %"))
        out[ppm] = 0
    else:
        exact = value * PPM_PER_PERCENT
        out[ppm] = round(exact)
        if abs(exact - out[ppm]) > 1e-4:
            problems.append(Problem(f"{at}/{percent}", "range", "percentages have four decimals at most"))
    return out


def check_route(route: Route, renamed: Mapping[str, str] | None = None) -> list[Problem]:
    """Problems across fields; ``renamed`` maps pointers to those that the author wrote."""
    found = (
        *_names(route),
        *_weights(route),
        *_shadows(route),
        *_backends(route),
        *_slo(route),
    )
    renamed = renamed or {}
    return [Problem(renamed.get(p.pointer, p.pointer), p.code, p.message) for p in found]


def _names(route: Route) -> Iterator[Problem]:
    if route.model in RESERVED_MODEL_NAMES:
        yield Problem("/model", "reserved", f"{route.model!r} is a path of the protocol, no model can have this name")
    yield from _repeated("/variants", [v.version for v in route.variants])
    yield from _repeated("/shadows", [s.version for s in route.shadows])
    if route.stable not in route.weights():
        yield Problem("/stable", "unknown_version", f"stable {route.stable!r} is not among the variants: add it there")


def _repeated(at: str, versions: Iterable[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, version in enumerate(versions):
        if version in seen:
            yield Problem(f"{at}/{index}/version", "duplicate", f"version {version!r} stands twice")
        seen.add(version)


def _weights(route: Route) -> Iterator[Problem]:
    total = sum(v.weight_ppm for v in route.variants)
    if total != PPM:
        message = f"weights add up to {total / PPM_PER_PERCENT:g} %, not 100 %"
        if 0 < abs(total - PPM) < PPM_PER_PERCENT // 100:
            message = f"weights add up to {total} ppm, not {PPM}"
        yield Problem("/variants", "weights", message)


def _shadows(route: Route) -> Iterator[Problem]:
    weights = route.weights()
    for index, shadow in enumerate(route.shadows):
        if weights.get(shadow.version):
            message = f"version {shadow.version!r} answers requests: a shadow never does"
            yield Problem(f"/shadows/{index}/version", "shadow_with_weight", message)


def _backends(route: Route) -> Iterator[Problem]:
    versions = route.versions()
    for version in route.backends:
        if version not in versions:
            message = f"version {version!r} is neither a variant nor a shadow of this route"
            yield Problem(f"/backends/{_escaped(version)}", "unknown_version", message)
    for version, spec in route.backends.items():
        if isinstance(spec, TritonSpec) and spec.version is None and not (version.isascii() and version.isdigit()):
            message = f"{TRITON_VERSION}: say which one {version!r} is there"
            yield Problem(f"/backends/{_escaped(version)}/version", "triton_version", message)


def _slo(route: Route) -> Iterator[Problem]:
    latency = route.slo.latency if route.slo else None
    if latency is None:
        return
    named = [(name, getattr(latency, name)) for name in ("p50_ms", "p95_ms", "p99_ms")]
    given = [(name, ms) for name, ms in named if ms is not None]
    if not given:
        yield Problem("/slo/latency", "missing", "give at least one of p50_ms, p95_ms, p99_ms")
    for (lower, a), (upper, b) in itertools.pairwise(given):
        if a > b:
            yield Problem(f"/slo/latency/{upper}", "order", f"{upper} is below {lower}")


def _escaped(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


BACKEND_KINDS: Mapping[str, type[OnnxSpec | OipSpec | TritonSpec]] = {
    "onnx": OnnxSpec,
    "oip": OipSpec,
    "triton": TritonSpec,
}
TRITON_VERSION = "Triton's versions are numbers"

SENTENCES = {
    "missing": "this key is required",
    "extra_forbidden": "unknown key: check the spelling, unknown keys are never ignored",
    "bool_type": "true or false is expected",
}
CODES = {
    "extra_forbidden": "unknown_key",
    "missing": "missing",
    "no_url": "missing",
    "both_urls": "both",
    "same_urls": "duplicate",
}


def _of_url(url: str, *, is_triton: bool) -> str:
    scheme = url.partition("://")[0]
    if scheme in {"grpcs", "https"}:
        return "only http:// and Triton's grpc:// are served so far"
    if scheme == "grpc" and not is_triton:
        return "only a backend of kind `triton` is asked by gRPC"
    return "a url is http://host:port, or of Triton grpc://host:port, without a path"


def _problem(detail: ErrorDetails, renamed: Mapping[str, str]) -> Problem:
    """A problem from one of pydantic's, in our words where they help more."""
    place = [part for part in detail["loc"] if part not in BACKEND_KINDS or detail["loc"][0] != "backends"]
    pointer = "".join(f"/{_escaped(part)}" for part in place)
    pointer = renamed.get(pointer, pointer)
    kind = detail["type"]
    message = SENTENCES.get(kind, detail["msg"])
    if kind == "same_urls":
        pointer += f"/urls/{detail['ctx']['index']}"
    last = place[-1] if place else ""
    if kind == "string_type" and last in {"version", "stable", "model"} and not isinstance(detail["input"], str):
        message = f'a name is text: write it in quotes, {last}: "{detail["input"]}"'
    elif kind == "string_pattern_mismatch" and last == "version" and "triton" in detail["loc"]:
        message = f"{TRITON_VERSION}, as text and in digits alone"
    elif kind == "string_pattern_mismatch" and last in {"version", "stable", "model"}:
        message = "a name starts with a letter or digit, then letters, digits, `.`, `_`, `-`, no `..`, 128 at most"
    elif kind == "string_pattern_mismatch" and "by" in place:
        message = "a sticky source is `header:NAME` or `cookie:NAME`"
    elif kind == "string_pattern_mismatch" and ("urls" in place or last == "url"):
        message = _of_url(str(detail["input"]), is_triton="triton" in detail["loc"])
    elif kind in {"too_short", "too_long"} and last == "urls":
        message = f"`urls` has an entry for each server, 1 to {MAX_URLS}"
    elif kind == "too_short" and last == "variants":
        message = "a route has at least one variant, stable itself"
    elif kind == "too_short" and last == "by":
        message = "name at least one source of keys, or leave `sticky` out"
    elif kind in {"union_tag_invalid", "union_tag_not_found"}:
        message = f"`kind` is one of {', '.join(BACKEND_KINDS)}"
    elif kind == "missing" and last == "weight_ppm":
        message = "give `weight` in percent or `weight_ppm`"
    code = CODES.get(kind, "range" if "_than" in kind else "type")
    return Problem(pointer, code, message)
