"""What a right answer is: the corpora with their golden probabilities, and the checks of one answer."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.model import probability_of

REQUESTS = Path(__file__).parent.parent / "configs" / "demo" / "requests"
TOLERANCE = 1e-3
LABELS: Mapping[str, tuple[Any, Any]] = {"credit": (0, 1), "sentiment": ("negative", "positive")}
NUMBER = re.compile(r"^\d+$")
ROLES = frozenset({"stable", "canary", "pinned"})


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a corpus.

    Attributes:
        body: JSON.
        expected: Probability of the second label, by version.
    """

    body: bytes
    expected: Mapping[str, float]


def rows(model: str, fault_versions: Collection[str] = ()) -> list[Row]:
    """The corpus of a model; ``fault_versions`` are answered by the arithmetic of the fault backend."""
    found = []
    with (REQUESTS / f"{model}.jsonl").open() as lines:
        for line in lines:
            plain = json.loads(line)
            expected = dict(plain["golden"])
            for version in fault_versions:
                expected[version] = probability_of(plain["request"]["inputs"][0]["data"])
            found.append(Row(json.dumps(plain["request"]).encode(), expected))
    return found


def problem_of(
    model: str, row: Row, request_id: str, status: int, headers: Mapping[str, str], body: bytes | None
) -> str:
    """What is wrong with an answer, as a sentence; empty when it is right.

    Args:
        headers: Names in lower case.
        body: ``None`` when no answer came.
    """
    if status != 200 or body is None:
        return f"status {status}: {(body or b'no answer')[:200].decode(errors='replace')}"
    if (echoed := headers.get("x-request-id")) != request_id:
        return f"x-request-id is {echoed!r}, not {request_id!r}"
    for name in ("attempts", "revision"):
        if not NUMBER.match(headers.get(f"x-turnout-{name}", "")):
            return f"x-turnout-{name} is {headers.get(f'x-turnout-{name}')!r}"
    if (role := headers.get("x-turnout-role")) not in ROLES:
        return f"x-turnout-role is {role!r}"
    expected = row.expected.get(headers.get("x-turnout-version", ""))
    if expected is None:
        return f"x-turnout-version is {headers.get('x-turnout-version')!r}"
    return _wrong_value(model, expected, body)


def _wrong_value(model: str, expected: float, body: bytes) -> str:
    try:
        outputs = {output["name"]: output["data"] for output in json.loads(body)["outputs"]}
        label, probability = outputs["label"][0], outputs["probabilities"][1]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return f"not an answer of {model}: {error!r}"
    if not abs(probability - expected) <= TOLERANCE:
        return f"probability {probability}, expected {expected}"
    if abs(expected - 0.5) > TOLERANCE and label != LABELS[model][expected > 0.5]:
        return f"label {label!r} beside probability {probability}"
    return ""
