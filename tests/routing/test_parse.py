"""What people write: percent or ppm in, every problem out, each with its pointer."""

import json
from typing import Any

import pytest

from routing.errors import InvalidDocument
from routing.parse import parse_json, parse_route


def plain(**parts: Any) -> dict[str, Any]:
    variants = [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}]
    return {"model": "credit", "stable": "1", "variants": variants, **parts}


def problems_of(data: object) -> dict[str, str]:
    with pytest.raises(InvalidDocument) as caught:
        parse_route(data)
    return {p.pointer: p.message for p in caught.value.problems}


def test_percent_becomes_exact_ppm() -> None:
    variants = [{"version": "1", "weight": 99.9999}, {"version": "2", "weight": 0.0001}]
    assert parse_route(plain(variants=variants)).weights() == {"1": 999_999, "2": 1}


def test_the_contracts_example_is_accepted() -> None:
    route = parse_route(
        plain(
            sticky={"by": ["header:x-customer-id", "cookie:session"], "salt": "credit-a"},
            shadows=[{"version": "3", "sample": 100, "timeout_ms": 1000, "max_body_kb": 65536}],
            slo={
                "errors": {"max_rate": 0.01, "tolerated_ratio": 1.25},
                "latency": {"p99_ms": 50, "tolerated_slowdown": 1.19},
            },
            on_failure="retry_stable",
            side_effects=False,
            enforce=True,
            backends={"2": {"kind": "oip", "url": "http://127.0.0.1:8001", "model": "credit", "version": "2"}},
        )
    )
    assert route.slo is not None
    assert route.slo.latency is not None
    assert route.slo.latency.largest_ms() == 50
    assert route.shadows[0].sample_ppm == 1_000_000


def test_all_problems_come_at_once_with_their_pointers() -> None:
    found = problems_of(
        plain(
            stable=1,
            variants=[{"version": 1, "weight": 950}, {"version": "2", "weight": 5, "wieght": 1}],
            on_failure="retry",
            slo={"errors": {"max_rate": 0.9}},
            colour="red",
        )
    )
    assert set(found) == {
        "/stable",
        "/variants/0/version",
        "/variants/0/weight",
        "/variants/1/wieght",
        "/on_failure",
        "/slo/errors/max_rate",
        "/colour",
    }
    assert 'write it in quotes, version: "1"' in found["/variants/0/version"]


@pytest.mark.parametrize(
    ("parts", "pointer", "word"),
    [
        ({"variants": [{"version": "1", "weight": 90}]}, "/variants", "add up to 90 %"),
        (
            {"variants": [{"version": "1", "weight": 50}, {"version": "1", "weight": 50}]},
            "/variants/1/version",
            "twice",
        ),
        ({"variants": []}, "/variants", "at least one variant"),
        ({"sticky": {"by": []}}, "/sticky/by", "at least one source"),
        ({"stable": "9"}, "/stable", "not among the variants"),
        ({"model": "stats"}, "/model", "path of the protocol"),
        ({"model": "a..b"}, "/model", "no `..`"),
        ({"model": "../etc"}, "/model", "no `..`"),
        ({"shadows": [{"version": "2"}]}, "/shadows/0/version", "answers requests"),
        ({"backends": {"7": {"kind": "onnx"}}}, "/backends/7", "neither a variant nor a shadow"),
        ({"backends": {"2": {"kind": "carrier-pigeon"}}}, "/backends/2", "one of onnx, oip, triton"),
        ({"backends": {"2": {"kind": "oip", "url": "http://h/x"}}}, "/backends/2/url", "without a path"),
        ({"backends": {"2": {"kind": "oip"}}}, "/backends/2", "give `url`, or `urls`"),
        ({"backends": {"2": {"kind": "oip", "url": "http://h", "urls": ["http://i"]}}}, "/backends/2", "not both"),
        (
            {"backends": {"2": {"kind": "oip", "urls": ["http://h", "http://h"]}}},
            "/backends/2/urls/1",
            "http://h is listed twice",
        ),
        ({"backends": {"2": {"kind": "oip", "urls": []}}}, "/backends/2/urls", "1 to 16"),
        ({"backends": {"2": {"kind": "oip", "urls": [f"http://h:{n}" for n in range(17)]}}}, "/backends/2/urls", "16"),
        ({"backends": {"2": {"kind": "oip", "url": "grpc://h:8001"}}}, "/backends/2/url", "only a backend of kind"),
        ({"backends": {"2": {"kind": "triton", "url": "grpc://h:1/x"}}}, "/backends/2/url", "without a path"),
        ({"backends": {"2": {"kind": "oip", "url": "https://h"}}}, "/backends/2/url", "are served so far"),
        ({"backends": {"2": {"kind": "triton", "url": "http://h", "version": "v2"}}}, "/backends/2/version", "numbers"),
        ({"slo": {"latency": {}}}, "/slo/latency", "at least one"),
        ({"slo": {"latency": {"p50_ms": 9, "p99_ms": 5}}}, "/slo/latency/p99_ms", "below p50_ms"),
        ({"sticky": {"by": ["query:x"]}}, "/sticky/by/0", "header:NAME"),
        ({"variants": [{"version": "1", "weight": 100, "weight_ppm": 5}]}, "/variants/0/weight", "not both"),
        ({"variants": [{"version": "1", "weight": 10**400}]}, "/variants/0/weight", "not between 0 and 100"),
        ({"variants": [{"version": "1", "weight": True}]}, "/variants/0/weight", "number of percent"),
    ],
)
def test_each_mistake_is_named(parts: dict[str, Any], pointer: str, word: str) -> None:
    found = problems_of(plain(**parts))
    assert word in found[pointer]


def test_every_server_that_is_written_wrong_is_named() -> None:
    urls = ["http://a:1", "http://b/x", "grpc://c:2", 7]
    found = problems_of(plain(backends={"1": {"kind": "oip", "urls": urls}, "2": {"kind": "triton", "url": "x"}}))
    assert set(found) == {"/backends/1/urls/1", "/backends/1/urls/2", "/backends/1/urls/3", "/backends/2/url"}


def test_a_version_that_triton_cannot_name_needs_its_number() -> None:
    variants = [{"version": "v1", "weight": 100}]
    spec = {"kind": "triton", "url": "http://h"}
    found = problems_of({"model": "m", "stable": "v1", "variants": variants, "backends": {"v1": spec}})
    assert "say which one 'v1' is there" in found["/backends/v1/version"]
    parse_route({"model": "m", "stable": "v1", "variants": variants, "backends": {"v1": {**spec, "version": "7"}}})


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "oip", "url": "http://h:1", "model": None, "version": None},
        {"kind": "oip", "url": "http://h:1", "model": "m", "version": "2"},
        {"kind": "oip", "urls": ["http://h:1", "http://i:1"], "model": None, "version": None},
        {"kind": "triton", "url": "http://h:1", "model": None, "version": "2"},
    ],
)
def test_a_backend_reads_back_as_it_was_written(spec: dict[str, Any]) -> None:
    route = parse_route(plain(backends={"2": spec}))
    dumped = route.model_dump(mode="json")
    assert dumped["backends"] == {"2": spec}
    assert json.dumps(dumped["backends"]["2"]) == json.dumps(spec)  # in the same order: these are the stored bytes
    assert parse_route(dumped) == route


@pytest.mark.parametrize("data", [None, [], "route", 7])
def test_what_is_no_object_is_refused(data: object) -> None:
    assert "" in problems_of(data)


def test_duplicate_keys_are_refused() -> None:
    with pytest.raises(InvalidDocument, match="'a' stands twice"):
        parse_json('{"a": 1, "a": 2}')


@pytest.mark.parametrize("text", ['{"a": NaN}', "{", "[" * 100_000, b"\xff"])
def test_bad_json_is_a_problem_not_a_crash(text: str) -> None:
    with pytest.raises(InvalidDocument):
        parse_json(text)
