"""What servers say of their versions, in numbers and states, and what that comes to over several servers."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

COUNTS = ("inference_count", "execution_count")
DURATIONS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
STATES_BEST_FIRST = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")
UNLISTED = ("UNAVAILABLE", "its server does not list it")
MAX_ENTRIES = 65_536  # of an index, or of statistics

Plain = dict[str, Any]
# By the server's names of model and version.
Numbers = dict[tuple[str, str], Plain]
States = dict[tuple[str, str], tuple[str, str]]


class UnreadableWords(ValueError):
    """The body is no such answer. The text is a sentence that starts with a verb."""


def parse_statistics(body: bytes) -> Numbers:
    """The numbers of a server's statistics.

    Raises:
        UnreadableWords: The body is something else.
    """
    try:
        plain: Any = orjson.loads(body)
        return numbers_of(plain["model_stats"])
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as problem:
        raise UnreadableWords("sent no statistics") from problem


def numbers_of(entries: Sequence[Any]) -> Numbers:
    """The part of statistics that adds up over servers; what is not said is 0."""
    return {(str(one["name"]), str(one["version"])): _numbers(one) for one in entries[:MAX_ENTRIES]}


def _numbers(one: Plain) -> Plain:
    times = one.get("inference_stats", {})
    return {
        "last_inference": int(one.get("last_inference", 0)),
        **{name: int(one.get(name, 0)) for name in COUNTS},
        "inference_stats": {name: _duration(times.get(name, {})) for name in DURATIONS},
    }


def _duration(plain: Plain) -> dict[str, int]:
    return {"count": int(plain.get("count", 0)), "ns": int(plain.get("ns", 0))}


def summed(numbers: Iterable[Plain]) -> Plain:
    """Counts and times added up; the last inference is the latest."""
    total = _numbers({})
    times = total["inference_stats"]
    for one in numbers:
        total["last_inference"] = max(total["last_inference"], one["last_inference"])
        for name in COUNTS:
            total[name] += one[name]
        for name in DURATIONS:
            for part, count in one["inference_stats"][name].items():
                times[name][part] += count
    return total


def parse_index(body: bytes) -> States:
    """State and reason of each version in a server's repository index.

    Raises:
        UnreadableWords: The body is something else.
    """
    try:
        return states_of(orjson.loads(body))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
        raise UnreadableWords("sent no repository index") from problem


def states_of(entries: Sequence[Any]) -> States:
    """The entries that name a version; a model that was never loaded has none."""
    return {
        (str(one["name"]), str(one["version"])): (_state(one.get("state")), str(one.get("reason", "")))
        for one in entries[:MAX_ENTRIES]
        if "version" in one
    }


def _state(said: object) -> str:
    return said if isinstance(said, str) and said in STATES_BEST_FIRST else "UNAVAILABLE"


def worse(one: str, other: str) -> str:
    """The worse of two states: a version on one server is as ready as those who look at it agree."""
    return max(one, other, key=STATES_BEST_FIRST.index)


def best(states: Iterable[str]) -> str:
    """The best of some states: one server that has a version is enough to answer for it."""
    return min(states, key=STATES_BEST_FIRST.index, default="UNAVAILABLE")
