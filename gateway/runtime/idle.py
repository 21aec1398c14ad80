"""What a route configures and nothing comes of: canaries without weight, shadows without a sample, idle guards."""

from collections.abc import Iterator

from routing.document import RouteDocument


def idle_warnings(document: RouteDocument) -> Iterator[str]:
    """One sentence for each thing that is configured and idle."""
    route = document.route
    weights = route.weights()
    for version, weight in weights.items():
        if not weight and version != route.stable and version not in document.guard.latched:
            yield f"variant {version!r} is configured but idle: it has no weight"
    for shadow in route.shadows:
        if not shadow.sample_ppm:
            yield f"shadow {shadow.version!r} is configured but idle: its sample is 0 %"
    watched = [version for version in route.canaries() if weights[version]]
    if watched and not route.enforce:
        yield "guards are configured but idle: enforce is false, they report and do not act"
    if watched and route.slo is None:
        yield f"canary {watched[0]!r} is guarded by the fuse alone: the route has no slo"
