"""Routes that come from files, and what of a route only this gateway can judge."""

from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from gateway.errors import InvalidSettings
from gateway.settings import Settings, split_address
from gateway.settings_file import read_yaml
from routing.errors import InvalidDocument, Problem
from routing.parse import parse_route
from routing.table import RemoteSpec, Route


def problems_of_backends(
    route: Route, settings: Settings, own_ports: Collection[int] = frozenset()
) -> Sequence[Problem]:
    """Backends of a route that this gateway must not call: hosts off the list, and its own addresses."""
    addresses = (settings.server.listen, settings.admin.listen, settings.metrics.listen)
    own = {*own_ports, *(split_address(address)[1] for address in addresses if address is not None)}
    allowed = settings.backends.allow_hosts
    problems = []
    for version, spec in route.backends.items():
        if not isinstance(spec, RemoteSpec):
            continue
        for index, url in enumerate(spec.addresses()):
            pointer = f"/backends/{version}/" + ("url" if spec.urls is None else f"urls/{index}")
            problems += _problems_of_url(url, pointer, allowed, own)
    return problems


def _problems_of_url(url: str, pointer: str, allowed: Collection[str], own: Collection[int]) -> list[Problem]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (8001 if parts.scheme == "grpc" else 80)
    except ValueError:
        return [Problem(pointer, "url", "this is no http://host:port or grpc://host:port")]
    if host not in allowed and "*" not in allowed:
        return [Problem(pointer, "host", f"host {host!r} is not in backends.allow_hosts of the settings")]
    if host in {"127.0.0.1", "localhost", "::1"} and port in own:
        return [Problem(pointer, "loop", "this is the gateway's own address")]
    return []


def read_seeds(settings: Settings) -> list[Route]:
    """Routes of the routes folder.

    Raises:
        InvalidSettings: With all problems of all files.
    """
    folder = settings.routes.dir
    if folder is None:
        return []
    if not folder.is_dir():
        raise InvalidSettings([Problem("/routes/dir", "missing", f"there is no folder {folder}")])
    routes, problems = [], []
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            route = parse_route(read_yaml(file))
        except (InvalidDocument, InvalidSettings) as error:
            problems += [Problem(f"{file.name}{p.pointer}", p.code, p.message) for p in error.problems]
            continue
        wrong = problems_of_backends(route, settings)
        problems += [Problem(f"{file.name}{p.pointer}", p.code, p.message) for p in wrong]
        routes.append(route)
    if problems:
        raise InvalidSettings(problems)
    return routes
