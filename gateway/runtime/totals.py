"""What is counted of a route, in a form that adds up over gateways: a flat row of numbers for each place."""

from collections.abc import Mapping
from math import isfinite
from typing import Any
from zlib import crc32

from gateway.runtime.arms import Arm, Evidence
from gateway.runtime.shadows import CompiledShadow, ShadowEvidence

Number = int | float
PART = "\x1f"  # between the parts of a name; no name has it
LARGEST = "max_"  # how the last part of a name begins that does not add up
DIFFERENCES = "sum_"  # how the last part of a name begins that is no count
GAUGES = frozenset({"in_flight", "waiting"})  # true now, in one gateway


def arm_place(arm: Arm) -> str:
    """Which counts these are: a version in an epoch, as stable or not."""
    kind = "stable" if arm.is_stable else "version"
    return f"{arm.model}:{kind}:{arm.version}:{arm.evidence.epoch}"


def shadow_place(model: str, shadow: CompiledShadow) -> str:
    """A shadow in an epoch, beside one stable."""
    version, spec = shadow.evidence.stable
    beside = crc32(spec.model_dump_json().encode())
    return f"{model}:shadow:{shadow.version}:{shadow.evidence.epoch}:{version}:{beside:08x}"


def arm_counts(evidence: Evidence) -> dict[str, Any]:
    """What adds up of a version, over workers and gateways."""
    return {"counters": evidence.counters.as_json(), "cells": evidence.histogram.as_counts()}


def shadow_counts(evidence: ShadowEvidence) -> dict[str, Any]:
    """The same of a shadow."""
    return {
        "offered": evidence.offered,
        "waiting": evidence.waiting,
        "sent": evidence.sent,
        "in_flight": evidence.in_flight,
        "not_sent": dict(evidence.not_sent),
        "results": dict(evidence.results),
        "not_paired": evidence.not_paired,
        "not_compared": evidence.not_compared,
        "pairs": evidence.pairs.as_counts(),
    }


def counted(evidence: Evidence | ShadowEvidence) -> dict[str, Number]:
    """All counts, by flat names; those that are 0 are left out."""
    plain = arm_counts(evidence) if isinstance(evidence, Evidence) else shadow_counts(evidence)
    return flat(plain)


def flat(plain: Mapping[str, Any]) -> dict[str, Number]:
    """Numbers of nested mappings and sequences, by flat names; zeros and gauges are left out."""
    found: dict[str, Number] = {}
    for name, value in plain.items():
        if name in GAUGES:
            continue
        if isinstance(value, (list, tuple, Mapping)):
            below = value if isinstance(value, Mapping) else {str(i): item for i, item in enumerate(value) if item}
            found |= {f"{name}{PART}{rest}": number for rest, number in flat(below).items()}
        elif value and isfinite(value):
            found[name] = value
    return found


def nested(numbers: Mapping[str, Number]) -> dict[str, Any]:
    """Inverse of ``flat``; sequences come back as mappings by index."""
    found: dict[str, Any] = {}
    for name, number in numbers.items():
        *above, last = name.split(PART)
        held = found
        for part in above:
            held = held.setdefault(part, {})
        held[last] = number
    return found


def is_possible(name: str, number: Number) -> bool:
    """Whether it may be a sum of what is counted: only differences of outputs are no integers."""
    return isinstance(number, int) or name.rpartition(PART)[2].startswith((LARGEST, DIFFERENCES))


def news(now: Mapping[str, Number], before: Mapping[str, Number]) -> tuple[dict[str, Number], dict[str, Number]]:
    """What came since ``before``: what to add, and what to keep the largest of."""
    changed = {name: number for name, number in now.items() if number != before.get(name, 0)}
    largest = {name: number for name, number in changed.items() if _is_largest(name)}
    added = {name: number - before.get(name, 0) for name, number in changed.items() if name not in largest}
    return added, largest


def _is_largest(name: str) -> bool:
    return name.rpartition(PART)[2].startswith(LARGEST)
