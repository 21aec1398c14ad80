"""The text is the library's, byte for byte."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics.collector import OPENMETRICS, SampleCollector
from gateway.metrics.families import FAMILIES
from gateway.metrics.text import Text
from gateway.metrics.totals import Buckets, Samples

SAMPLES: Samples = {
    "turnout_requests_total": {("credit", "1", "stable", "200"): 12, ("a-b.c", "2", "canary", "502"): 1_234_567},
    "turnout_attempt_seconds": {("credit", "1"): Buckets((0.0001, 0.05, 2.5), (1, 2, 3, 999_999_999), 1.5e-7)},
    "turnout_request_seconds": {("credit",): Buckets((1.0,), (0, 0), 0.0)},
    "turnout_guard_evidence": {
        ("credit", "2", "errors"): 0.99**40,
        ("credit", "2", "latency_p99"): 1e8,
        ("credit", "2", "latency_p50"): float("inf"),
    },
    "turnout_inflight": {(): 3},
    "turnout_build_info": {('1"', "3\\11", "a\nb"): 1},
    "turnout_mirror_total": {("credit", "3", "sent"): 2},
}


@pytest.mark.parametrize("is_openmetrics", [False, True])
def test_the_text_is_what_the_library_writes(is_openmetrics: bool) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SampleCollector(SAMPLES))
    text = Text()
    expected = (generate_openmetrics if is_openmetrics else generate_latest)(registry)
    for _ in range(2):  # anew, and with what was kept
        assert text.render(SAMPLES, is_openmetrics=is_openmetrics).decode() == expected.decode()


def test_the_text_can_be_parsed() -> None:
    found = {f.name for f in text_string_to_metric_families(Text().render(SAMPLES).decode())}
    assert found == {name.removesuffix("_total") for name in FAMILIES}


@pytest.mark.parametrize(
    ("accept", "asked"),
    [
        ("", False),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", True),
        ("application/openmetrics-texts", False),
    ],
)
def test_openmetrics_where_it_is_asked_for(accept: str, asked: bool) -> None:
    assert (OPENMETRICS.search(accept) is not None) == asked
