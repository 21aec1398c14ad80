"""The routes that serve now: one attribute read per request, replaced by assignment."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.runtime.arms import Arm
from gateway.runtime.compile import CompiledRoute


class Snapshot:
    """Everything one request looks things up in. Never changes; a request keeps the one it read.

    Attributes:
        routes: By model.
        repository: By model and version, the versions of the model repository, for pins.
    """

    __slots__ = ("repository", "routes")

    def __init__(
        self, routes: Mapping[str, CompiledRoute], repository: Mapping[tuple[str, str], Arm] = MappingProxyType({})
    ) -> None:
        self.routes = routes
        self.repository = repository

    def pinned(self, model: str, version: str) -> Arm | None:
        """The arm of a version that a request names."""
        route = self.routes.get(model)
        arm = route.pinned(version) if route else None
        return arm or self.repository.get((model, version))

    def versions(self, model: str) -> list[str]:
        """Versions of a model that a request may name."""
        route = self.routes.get(model)
        named = list(route.by_version) if route else []
        found = [version for name, version in self.repository if name == model]
        return list(dict.fromkeys([*named, *sorted(found)]))


class Runtime:
    """Holder of the current snapshot."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current = Snapshot({})
