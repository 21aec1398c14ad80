"""What a route configures and nothing comes of: canaries without weight, shadows without a sample, idle guards."""

from collections.abc import Iterator

from gateway.runtime.warnings import FUSE_ALONE, GUARD_IDLE, SHADOW_IDLE, VARIANT_IDLE
from routing.document import RouteDocument


def idle_warnings(document: RouteDocument) -> Iterator[tuple[str, str, str]]:
    """For each thing that is configured and idle by its document alone: kind, version, sentence."""
    route = document.route
    weights = route.weights()
    for version, weight in weights.items():
        if not weight and version != route.stable and version not in document.guard.latched:
            yield VARIANT_IDLE, version, f"variant {version!r} is configured but idle: it has no weight"
    for shadow in route.shadows:
        if not shadow.sample_ppm:
            said = f"shadow {shadow.version!r} is configured but idle: its sample is 0 %"
            yield SHADOW_IDLE, shadow.version, said
    watched = [version for version in route.canaries() if weights[version]]
    if watched and not route.enforce:
        yield GUARD_IDLE, "", "guards are configured but idle: enforce is false, they report and do not act"
    if watched and route.slo is None:
        yield FUSE_ALONE, watched[0], f"canary {watched[0]!r} is guarded by the fuse alone: the route has no slo"
