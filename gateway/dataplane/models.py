"""What the protocol tells about models: metadata, readiness, configuration, statistics, the repository's index."""

from collections.abc import Iterator
from typing import Any

from gateway.backends.base import State
from gateway.dataplane.verdicts import not_ready, unrouted
from gateway.errors import BadRequest, ModelNotFound, VersionNotFound, VersionNotReady
from gateway.protocol.config import model_config
from gateway.protocol.request import read_object
from gateway.protocol.shapes import Signature
from gateway.runtime.arms import Arm
from gateway.runtime.snapshot import Snapshot

Plain = dict[str, Any]


def arm_of(snapshot: Snapshot, model: str, version: str | None) -> Arm:
    """The arm that a path is about: the named version, or stable.

    Raises:
        ModelNotFound: There is no route, and no version is named.
        VersionNotFound: There is no such version.
    """
    if version is None:
        route = snapshot.routes.get(model)
        if route is None:
            raise ModelNotFound(unrouted(snapshot, model))
        return route.stable
    arm = snapshot.pinned(model, version)
    if arm is None:
        raise VersionNotFound(f"model {model!r} has no version {version!r}")
    return arm


def signature_of(arm: Arm) -> Signature:
    """What a version expects and promises.

    Raises:
        VersionNotReady: It is not known yet.
    """
    signature = arm.slot.backend.signature
    if signature is None:
        raise VersionNotReady(not_ready(arm))
    return signature


def metadata(snapshot: Snapshot, model: str, version: str | None) -> Plain:
    """Names, versions and tensors."""
    arm = arm_of(snapshot, model, version)
    signature = signature_of(arm)
    plain: Plain = {
        "name": model,
        "versions": snapshot.versions(model),
        "platform": signature.platform,
        "inputs": [spec.as_json() for spec in signature.inputs],
        "outputs": [spec.as_json() for spec in signature.outputs],
    }
    if note := getattr(arm.slot.backend, "note", ""):
        plain["properties"] = {"note": note}
    return plain


def readiness(snapshot: Snapshot, model: str, version: str | None) -> Plain:
    """Whether a version is ready, and if not, why."""
    arm = arm_of(snapshot, model, version)
    ready = arm.slot.is_ready
    plain: Plain = {"name": model, "ready": ready}
    return plain if ready else {**plain, "error": not_ready(arm)}


def config(snapshot: Snapshot, model: str, version: str | None) -> Plain:
    """Triton's configuration of a version."""
    arm = arm_of(snapshot, model, version)
    return model_config(model, arm.slot.backend.engine, signature_of(arm))


def statistics(snapshot: Snapshot, model: str | None, version: str | None) -> Plain:
    """Triton's statistics: of one version, of all of a model, or of all models."""
    if model is None:
        arms = list(_every(snapshot))
    elif version is not None:
        arms = [arm_of(snapshot, model, version)]
    else:
        arms = _arms(snapshot, model)
        if not arms:
            raise ModelNotFound(unrouted(snapshot, model))
    return {
        "model_stats": [
            {"name": arm.model, "version": arm.version, **arm.slot.backend.statistics.as_json()} for arm in arms
        ]
    }


def index(snapshot: Snapshot, body: bytes) -> list[Plain]:
    """Triton's repository index; ``{"ready": true}`` asks for versions that are ready only.

    Raises:
        BadRequest: The body is something else.
    """
    ready = read_object(body).get("ready", False) if body.strip() else False
    if not isinstance(ready, bool):
        raise BadRequest("`ready` is neither true nor false")
    return [_entry(arm) for arm in _every(snapshot) if arm.slot.is_ready or not ready]


def _entry(arm: Arm) -> Plain:
    backend = arm.slot.backend
    state = {State.READY: "READY", State.LOADING: "LOADING"}.get(backend.state, "UNAVAILABLE")
    return {"name": arm.model, "version": arm.version, "state": state, "reason": backend.public_reason}


def _arms(snapshot: Snapshot, model: str) -> list[Arm]:
    found = (snapshot.pinned(model, version) for version in snapshot.versions(model))
    return [arm for arm in found if arm is not None]


def _every(snapshot: Snapshot) -> Iterator[Arm]:
    models = {*snapshot.routes, *(model for model, _ in snapshot.repository)}
    for model in sorted(models):
        yield from _arms(snapshot, model)
