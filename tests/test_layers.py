"""Imports point downwards only: the arrows of docs/architecture.md, read from the source with ast."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Lowest first. Modules of one row may not import one another.
ROUTING = [
    ["errors"],
    ["table"],
    ["hashing"],
    ["intervals", "analysis"],
    ["rollout.types"],
    ["document"],
    ["split", "rollout", "lifecycle"],
    ["parse", "edit", "explain", "whatif", "codec"],
    ["store"],
]
GATEWAY = [
    ["errors"],
    ["settings", "logs", "metrics"],
    ["settings_file"],
    ["route_files"],
    ["protocol"],
    ["backends"],
    ["runtime"],
    ["dataplane", "control", "admin", "artifacts"],
    ["app", "host", "processes", "server"],
    ["serve", "worker"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
PURE_FORBIDDEN = {
    "asyncio",
    "socket",
    "time",
    "random",
    "secrets",
    "os",
    "logging",
    "threading",
    "redis",
    "sqlite3",
}


def rank(rows: list[list[str]], module: str) -> tuple[int, str] | None:
    """Row and room of a module: the longest name in the table that it starts with."""
    best = None
    for index, row in enumerate(rows):
        for room in row:
            if (module == room or module.startswith(room + ".")) and (best is None or len(room) > len(best[1])):
                best = (index, room)
    return best


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> list[str]:
    found = []
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found += [stem] + [f"{stem}.{alias.name}" for alias in node.names]
    return found


SOURCES = sorted([*ROOT.glob("routing/**/*.py"), *ROOT.glob("gateway/**/*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_arrows_point_down(path: Path) -> None:
    package, _, rest = module_name(path).partition(".")
    rows = ROUTING if package == "routing" else GATEWAY
    if not rest:
        assert not [name for name in imports(path) if name.startswith(package + ".")], "a package root imports nothing"
        return
    place = rank(rows, rest)
    assert place is not None, f"{package}.{rest} has no place in the table of layers"
    for name in imports(path):
        top, _, target = name.partition(".")
        if package == "routing":
            assert top != "gateway", f"{path}: routing never imports gateway"
        if top != package or not target:
            continue
        other = rank(rows, target)
        if other is None or other[1] == place[1]:
            continue
        assert other[0] < place[0], f"{package}.{rest} may not import {name}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "routing")], ids=module_name)
def test_routing_is_pure(path: Path) -> None:
    if "store" in path.parts:
        return
    used = {name.partition(".")[0] for name in imports(path)}
    assert not used & PURE_FORBIDDEN
    assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.AsyncFunctionDef)]


def test_only_the_store_imports_redis() -> None:
    users = {module_name(p) for p in SOURCES if any(n.partition(".")[0] == "redis" for n in imports(p))}
    assert users <= {"routing.store.redis", "routing.store.redis_sentinel", "routing.store.redis_silence"}


def test_the_data_plane_knows_no_pydantic() -> None:
    for path in ROOT.glob("gateway/dataplane/**/*.py"):
        assert not [name for name in imports(path) if name.startswith("pydantic")], path


def test_commands_that_talk_to_a_gateway_hold_none_of_its_parts() -> None:
    allowed = (
        "gateway.commands",
        "gateway.errors",
        "gateway.settings",
        "gateway.settings_file",
        "routing.errors",
        "routing.table",
    )
    for path in ROOT.glob("gateway/commands/*.py"):
        ours = [name for name in imports(path) if name.partition(".")[0] in {"gateway", "routing"}]
        assert not [name for name in ours if not name.startswith(allowed)], path
