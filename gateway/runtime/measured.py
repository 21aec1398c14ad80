"""What is true of the routes that serve now, as samples."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from gateway.metrics.families import (
    GUARD_CAPPED,
    GUARD_EVIDENCE,
    GUARD_LATE,
    INSTANCES,
    LATCHED,
    LOWERED,
    READY,
    REVISION,
    WEIGHT,
)
from gateway.metrics.totals import Samples
from gateway.runtime.arms import Arm
from gateway.runtime.compile import CompiledRoute
from gateway.runtime.snapshot import Snapshot
from routing.table import PPM

ROUTES_A_TURN = 8  # routes that are looked at before the loop may do something else

INSTANCE_STATES = ("loading", "ready", "ejected", "failed")
OF_ROUTES = (INSTANCES, WEIGHT, REVISION, LATCHED, LOWERED, READY, GUARD_EVIDENCE, GUARD_CAPPED, GUARD_LATE)


async def measured_routes(snapshot: Snapshot) -> Samples:
    """Samples of every route in a snapshot."""
    samples: Samples = {family.name: {} for family in OF_ROUTES}
    for index, route in enumerate(snapshot.routes.values()):
        if index % ROUTES_A_TURN == 0:
            await asyncio.sleep(0)
        _measure(route, samples)
    for (model, version), arm in snapshot.repository.items():
        samples[READY.name].setdefault((model, version), int(arm.slot.is_ready))
    return samples


def _measure(route: CompiledRoute, samples: Samples) -> None:
    model = route.model
    samples[REVISION.name][model,] = route.document.revision
    latched = route.document.guard.latched
    for version, arm in route.by_version.items():
        labels = (model, version)
        samples[READY.name][labels] = int(arm.slot.is_ready)
        samples[LATCHED.name][labels] = int(version in latched)
        if instances := getattr(arm.slot.backend, "instance_status", None):
            states = Counter(instance["state"] for instance in instances())
            for state in INSTANCE_STATES:
                samples[INSTANCES.name][*labels, state] = states[state]
        if arm.role != "pinned":
            samples[WEIGHT.name][labels] = arm.weight_ppm / PPM
            samples[LOWERED.name][labels] = int(arm.evidence.lowered)
            _measure_guard(arm, samples)


def _measure_guard(arm: Arm, samples: Samples) -> None:
    labels = (arm.model, arm.version)
    if arm.is_stable:
        for objective in arm.evidence.objectives:
            samples[GUARD_EVIDENCE.name][*labels, objective.name] = arm.evidence.merged.evidence(objective.name)
        return
    found: Mapping[str, Mapping[str, Any]] = arm.evidence.detector.evidence()["objectives"]  # type: ignore[assignment]
    for name, plain in found.items():
        samples[GUARD_EVIDENCE.name][*labels, name] = plain["odds"]
        samples[GUARD_CAPPED.name][*labels, name] = plain["capped"]
        samples[GUARD_LATE.name][*labels, name] = plain["late"]
