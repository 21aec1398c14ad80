from typing import Any

import pytest

from gateway.runtime.idle import idle_warnings
from routing.edit import Flip, Release, next_document
from tests.builders import CHANGE_ID, document

SLO = {"errors": {"max_rate": 0.01}}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"slo": SLO}, []),
        ({"weights": {"1": 100}}, []),
        ({"slo": SLO, "weights": {"1": 100, "2": 0}}, ["variant '2' is configured but idle"]),
        ({"slo": SLO, "enforce": False}, ["enforce is false"]),
        ({"slo": SLO, "enforce": False, "weights": {"1": 100}}, []),
        ({}, ["canary '2' is guarded by the fuse alone"]),
        ({"slo": SLO, "shadows": [{"version": "3", "sample": 0}]}, ["shadow '3' is configured but idle"]),
        ({"slo": SLO, "shadows": [{"version": "3", "sample": 1}]}, []),
    ],
)
def test_what_is_configured_and_idle_is_said(parts: dict[str, Any], words: list[str]) -> None:
    said = [sentence for _, _, sentence in idle_warnings(document(**parts))]
    assert len(said) == len(words), said
    assert all(word in sentence for word, sentence in zip(words, said, strict=True))


def test_a_latched_version_is_not_idle_and_a_released_one_is() -> None:
    flipped = next_document(document(slo=SLO), Flip("credit", None, "bad", 0.0), CHANGE_ID)
    assert list(idle_warnings(flipped)) == []  # type: ignore[arg-type]
    released = next_document(flipped, Release("credit", None, "fixed"), CHANGE_ID)
    assert "has no weight" in next(idle_warnings(released))[2]  # type: ignore[arg-type]
