"""What is served, and what a right answer of each version is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from loadtests.oracle import problem_of, rows
from tests.chaos.ledger import Entry, Fate

MODEL, STABLE, CANARY, SHADOW = "credit", "1", "9", "2"
HONEST = frozenset({502, 503, 504})


class Server(Protocol):
    """A process that runs a version: dies, freezes and comes back."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


def credit_route(canary_url: str, weight: int) -> dict[str, Any]:
    """Stable in process, the canary at ``canary_url``; the shadow's two numbers are the operators' registers."""
    return {
        "model": MODEL,
        "stable": STABLE,
        "variants": variants(weight),
        "shadows": [{"version": SHADOW, "sample": 2, "timeout_ms": 1000, "max_body_kb": 1000}],
        "sticky": {"by": ["header:x-customer-id"]},
        "slo": {"errors": {"max_rate": 0.02}},
        "backends": {CANARY: {"kind": "oip", "url": canary_url, "model": MODEL, "version": "1"}},
    }


def variants(weight: int) -> list[dict[str, Any]]:
    return [{"version": STABLE, "weight": 100 - weight}, {"version": CANARY, "weight": weight}]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request before it is sent."""

    path: str
    body: bytes
    row: Any


class Subject(Protocol):
    """What a client asks, and knows the right answer of."""

    def request(self, number: int) -> Asked: ...
    def judge(
        self, entry: Entry, asked: Asked, request_id: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> None: ...


class CreditSubject:
    """The demo's credit, whose right answers are written down, and a canary that is arithmetic."""

    def __init__(self) -> None:
        self._rows = rows(MODEL, [CANARY])

    def request(self, number: int) -> Asked:
        """The same one for the same number."""
        row = self._rows[number % len(self._rows)]
        return Asked(f"/v2/models/{MODEL}/infer", row.body, row)

    def judge(
        self, entry: Entry, asked: Asked, request_id: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Write down what the answer is."""
        if is_honest_error(entry, status, headers, body):
            return
        entry.sentence = problem_of(MODEL, asked.row, request_id, status, headers, body) or _named(entry.version, body)
        entry.fate = Fate.WRONG if entry.sentence else Fate.RIGHT


def is_honest_error(entry: Entry, status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Write down what the head says, and whether it is an error that says what it is."""
    entry.status = status
    entry.version = headers.get("x-turnout-version", "")
    entry.attempts = headers.get("x-turnout-attempts", "")
    entry.revision = int(headers.get("x-turnout-revision", "0"))
    if status not in HONEST:
        return False
    entry.sentence = sentence_of(body)
    entry.fate = Fate.HONEST if entry.sentence else Fate.WRONG
    return True


def sentence_of(body: bytes) -> str:
    """What an error says; empty when it is none."""
    try:
        said = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return said if isinstance(said, str) else ""


def _named(version: str, body: bytes) -> str:
    plain = json.loads(body)
    named = plain.get("model_name"), plain.get("model_version")
    return "" if named == (MODEL, version) else f"the body names {named}, the head version {version!r}"
