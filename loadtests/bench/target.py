"""Something that is measured: its processes, what it is asked, what it must answer."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any


class WrongAnswer(Exception):
    """A contender does other work than it should."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a load generator sends.

    Attributes:
        bodies: Sent in turn.
        headers: Beside host, length and customer.
        varied: Every request head is another.
    """

    path: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    varied: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator saw in one run. Latencies are microseconds; ``ok`` counts answers with 200."""

    requests: int
    ok: int
    seconds: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Target:
    """A running contender.

    Attributes:
        pid: Of the process whose whole tree is the system under test.
        drive: Puts load on it for so many seconds.
        port: Where it listens, 0 for what does not.
        note: What a reader of the table must know.
        rests: It is stopped while others are measured: some servers poll when they are idle.
    """

    name: str
    version: str
    pid: int
    drive: Callable[[float], Load]
    port: int = 0
    note: str = ""
    rests: bool = True


def ask(port: int, question: Question, customer: str, body: bytes) -> tuple[Mapping[str, str], bytes]:
    """One request; headers in lower case and body of its answer.

    Raises:
        WrongAnswer: The status is not 200.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", question.path, body, {**question.headers, "x-customer-id": customer})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise WrongAnswer(f"status {answer.status}: {content[:300]!r}")
    return {name.lower(): value for name, value in answer.getheaders()}, content


def tensors(content: bytes) -> dict[str, list[Any]]:
    """Outputs of a JSON answer, by name.

    Raises:
        WrongAnswer: It has none.
    """
    try:
        return {output["name"]: list(output["data"]) for output in json.loads(content)["outputs"]}
    except (ValueError, KeyError, TypeError) as problem:
        raise WrongAnswer(f"no outputs in {content[:300]!r}: {problem!r}") from None
