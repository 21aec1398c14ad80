"""The documentation says what the code has: links, settings, paths, headers, examples."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel
from starlette.routing import Route as Path_

from gateway.admin import endpoints as admin
from gateway.cli import main
from gateway.dataplane.endpoints import DataPlane
from gateway.metrics.families import FAMILIES
from gateway.settings import Settings, Token
from routing.analysis.outcome import Kind
from routing.parse import parse_route
from routing.table import Route

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
SKIPPED = {".venv", ".tools", ".bench", ".git", ".turnout", "node_modules"}
PAGES = sorted(p for p in ROOT.rglob("*.md") if not SKIPPED & set(p.relative_to(ROOT).parts))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match(r"^[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(found), f"{target}: there is no such heading"


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, with its default."""
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{key}.")
        else:
            yield prefix + key, field.default


@pytest.mark.parametrize(("key", "default"), list(keys(Settings)))
def test_every_setting_is_documented(key: str, default: Any) -> None:
    variable = "TURNOUT_" + key.upper().replace(".", "__")
    row = re.search(
        rf"^\| `{re.escape(key)}` \| (.*?) \| `{variable}` \|", (REFERENCE / "settings.md").read_text(), re.M
    )
    assert row, f"settings.md has no row for {key} with {variable}"
    if isinstance(default, bool):
        assert row[1] == str(default).lower()
    elif isinstance(default, (int, float)):
        assert float(row[1]) == default
    elif isinstance(default, (str, Path)):
        assert row[1] == f"`{default}`"


def test_no_setting_is_documented_that_is_not_there() -> None:
    documented = re.findall(r"^\| `([a-z_.]+)` \|.*`TURNOUT_", (REFERENCE / "settings.md").read_text(), re.M)
    assert sorted(documented) == sorted(key for key, _ in keys(Settings))


def test_every_admin_path_is_documented() -> None:
    anything = SimpleNamespace()
    for room in ("routes", "verbs", "history", "places", "events", "audit", "views"):
        setattr(anything, room, _Anything())
    page = (REFERENCE / "admin.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for path in admin.admin_paths(*vars(anything).values()):
        short = path.path.removeprefix(admin.PREFIX).replace("{model}", "{m}")
        for method in (path.methods or set()) - {"HEAD"}:
            assert any(re.match(rf"\| `{method} {re.escape(short)}[`? ]", row) for row in rows), f"{method} {short}"


def commands(command: click.Command, path: str = "turnout") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, with its words."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for word, below in command.commands.items():
        yield from commands(below, f"{path} {word}")


@pytest.mark.parametrize(("path", "command"), list(commands(main)))
def test_every_command_and_option_is_documented(path: str, command: click.Command) -> None:
    page = (REFERENCE / "cli.md").read_text()
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    row = re.search(rf"^\| `{path}([ A-Z.\[\]]*)` \|", page, re.M)
    assert row, f"cli.md has no row for {path}"
    assert re.findall("[A-Z]+", row[1]) == [(a.name or "").upper().removesuffix("S") for a in arguments]
    for option in (p for p in command.params if isinstance(p, click.Option)):
        assert re.search(rf"^\| `{option.opts[0]}[ A-Z]*` \|", page, re.M), f"{path} {option.opts[0]}"


def test_no_command_is_documented_that_is_not_there() -> None:
    documented = re.findall(r"^\| `(turnout(?: [a-z]+)+)", (REFERENCE / "cli.md").read_text(), re.M)
    assert sorted(documented) == sorted(path for path, _ in commands(main))


def test_every_path_of_the_data_plane_is_documented() -> None:
    plane = DataPlane(
        Settings(), _Anything(), _Anything(), _Anything(), lambda: False, "name", _Anything(), _Anything()
    )  # type: ignore[arg-type]
    page = (REFERENCE / "protocol.md").read_text()
    for path in plane.app().routes:
        assert isinstance(path, Path_)
        for method in (path.methods or set()) - {"HEAD"}:
            assert f"`{method} {path.path}`" in page, f"{method} {path.path}"


def test_every_answer_header_is_documented() -> None:
    headers = {"x-request-id", "inference-header-content-length", "retry-after"}
    for source in [*ROOT.glob("gateway/dataplane/*.py"), *ROOT.glob("gateway/runtime/*.py")]:
        headers |= set(re.findall(r'b"(x-[a-z-]+)"', source.read_text()))
    headers -= {"x-request-timeout-ms", "x-turnout-priority", "x-turnout-key"}  # of requests
    assert {"x-turnout-version", "x-turnout-role", "x-turnout-attempts", "x-turnout-revision"} <= headers
    page = (REFERENCE / "protocol.md").read_text()
    for header in headers:
        assert f"\n| `{header}` |" in page, header


def test_every_key_of_a_route_is_documented() -> None:
    page = (REFERENCE / "route.md").read_text()
    every = max((text for kind, text in FENCE.findall(page) if kind == "yaml"), key=len)
    assert set(yaml.safe_load(every)) == set(Route.model_fields)
    for key in Route.model_fields:
        assert f"\n| `{key}` |" in page, key


def examples() -> Iterator[Any]:
    for page in (REFERENCE / "route.md", ROOT / "README.md"):
        for index, (kind, text) in enumerate(FENCE.findall(page.read_text())):
            if kind == "yaml" and "variants" in text:
                yield pytest.param(text, id=f"{page.stem}-{index}")


@pytest.mark.parametrize("text", list(examples()))
def test_examples_of_routes_are_valid(text: str) -> None:
    parse_route(yaml.safe_load(text))


def test_there_are_examples() -> None:
    assert len(list(examples())) >= 3


def test_every_metric_is_documented_as_it_is() -> None:
    page = (REFERENCE / "metrics.md").read_text()
    documented = [line for line in page.splitlines() if line.startswith("| `turnout_")]
    assert documented == [
        f"| `{f.name}` | {f.kind} | {', '.join(f'`{label}`' for label in f.labels)} | {f.text} |"
        for f in FAMILIES.values()
    ]
    free = {"model", "version", "python", "onnxruntime"}
    for label in {label for f in FAMILIES.values() for label in f.labels} - free:
        assert f"\n| `{label}` |" in page, label
    for outcome in (kind.value for kind in Kind):
        assert f"`{outcome}`" in page


def test_the_roles_are_documented() -> None:
    page = (REFERENCE / "admin.md").read_text()
    for role in Token.model_fields["role"].annotation.__args__:  # type: ignore[union-attr]
        assert f"`{role}`" in page


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    for page in (ROOT / "docs/adr").glob("0*.md"):
        assert f"({page.name})" in index


def test_every_dependency_is_explained() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^\w+ = \[(.*?)^\]|^(?:triton|zstd|build) = \[(.*?)\]$", project, re.M | re.S)
    page = (ROOT / "docs/dependencies.md").read_text()
    for wanted in re.findall(r'"([a-zA-Z][\w-]+)(?:\[\w+\])?[>;=<]', "".join(a + b for a, b in lists)):
        assert f"\n| `{wanted}` |" in page, wanted


class _Anything:
    """Has every attribute."""

    def __getattr__(self, name: str) -> Any:
        return name
