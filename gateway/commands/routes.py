"""``turnout routes``: see and change routes."""

import os
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_from_bytes

import click
import yaml

from gateway.commands.client import AdminClient, Reply, condition
from gateway.commands.console import cell, clean, differences, percent, say, table, weights
from gateway.commands.reach import REFUSED, AdminCommand, Name, Reason, answer, connected, reaching, wants_json
from gateway.commands.route_file import read_route
from gateway.errors import InvalidSettings

SHOWN_CHANGES = 4
WAIT = "?wait=applied&timeout_ms=10000"
OVERRIDE = "override=contract"
PERCENT = {"weight_ppm": "weight", "sample_ppm": "sample"}

dry_run = click.option("--dry-run", is_flag=True, help="Do everything but the write; show the difference.")
why = click.option("--reason", required=True, type=Reason(), help="Why: it stands in the history.")
wait = click.option(
    "--wait", is_flag=True, help="Wait until every gateway on the store serves it; exit 1 if not in 10 s."
)
override = click.option(
    "--override-contract", is_flag=True, help="Accept versions that break stable's contract; the reason says why."
)
one_version = click.option("--version", type=Name(), help="One version; without it all.")


@click.group()
@reaching
def routes() -> None:
    """See and change routes, through the admin plane of a running gateway."""


@routes.command("list", cls=AdminCommand)
@reaching
def list_routes() -> None:
    """Every route in a line."""
    with connected() as admin:
        answer(admin.get("/routes"), _show_list)


@routes.command(cls=AdminCommand)
@click.argument("model", type=Name())
@reaching
def get(model: str) -> None:
    """A route as YAML that `put` takes back; latches as comments."""
    with connected() as admin:
        answer(admin.get(f"/routes/{model}"), _show_document)


@routes.command(cls=AdminCommand)
@click.argument("file")
@dry_run
@wait
@override
@click.option("--reason", type=Reason(), help="Why: it stands in the history.")
@reaching
def put(file: str, dry_run: bool, wait: bool, override_contract: bool, reason: str | None) -> None:
    """Create or replace the route in FILE, YAML or JSON; `-` reads standard input.

    The route must be the one that was read a moment before: somebody else's change in between is refused, not lost.
    """
    model, route = _route_in(file)
    _require_one(dry_run, wait)
    if override_contract and not reason:
        raise click.UsageError("--override-contract needs a --reason: it stands in the history")
    said = [f"reason={quote(reason)}" if reason else "", OVERRIDE if override_contract else ""]
    path, parameters = f"/routes/{model}", "&".join(filter(None, said))
    with connected() as admin:
        revision = admin.revision_of(model)
        if dry_run or not wants_json():
            preview = admin.put(f"{path}?dry_run=1&{parameters}".rstrip("&"), route, condition(revision))
            answer(preview, _show_preview if dry_run else _show_difference)
        if not dry_run:
            reply = admin.put(f"{path}{WAIT if wait else '?'}&{parameters}".rstrip("?&"), route, condition(revision))
            answer(reply, lambda document: _show_written(document, revision))
            _exit_unless_applied(reply)


@routes.command(cls=AdminCommand)
@click.argument("model", type=Name())
@why
@one_version
@dry_run
@wait
@reaching
def flip(model: str, reason: str, version: str | None, dry_run: bool, wait: bool) -> None:
    """Give the weight of one version, or of all canaries, to stable at once, and latch them."""
    with connected() as admin:
        _verb(admin, f"/routes/{model}/flip", {"reason": reason, "version": version}, dry_run, wait)


@routes.command(cls=AdminCommand)
@click.argument("model", type=Name())
@why
@one_version
@dry_run
@wait
@reaching
def release(model: str, reason: str, version: str | None, dry_run: bool, wait: bool) -> None:
    """Clear one latch, or all; weights stay where the flip left them."""
    with connected() as admin:
        _verb(admin, f"/routes/{model}/release", {"reason": reason, "version": version}, dry_run, wait)


@routes.command(cls=AdminCommand)
@click.argument("model", type=Name())
@click.argument("revision", type=click.IntRange(min=1))
@why
@dry_run
@wait
@override
@reaching
def restore(model: str, revision: int, reason: str, dry_run: bool, wait: bool, override_contract: bool) -> None:
    """Put the route of an earlier REVISION back; latches hold."""
    with connected() as admin:
        current = admin.revision_of(model)
        body = {"revision": revision, "reason": reason}
        path = f"/routes/{model}/restore"
        _verb(admin, path, body, dry_run, wait, condition(current), current, overrides=override_contract)


@routes.command(cls=AdminCommand)
@click.argument("model", type=Name())
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Newest entries to show.")
@click.option("--verify", is_flag=True, help="Check the whole hash chain; exit 1 when it is broken.")
@reaching
def history(model: str, limit: int, verify: bool) -> None:
    """Who changed a route, when, why and what; newest first."""
    with connected() as admin:
        reply = admin.get(f"/routes/{model}/history?limit={limit}" + ("&verify=1" if verify else ""))
        answer(reply, _show_history)
    if verify and (not isinstance(reply.plain, dict) or reply.plain.get("verified") is not True):
        sys.exit(REFUSED)


@routes.command(cls=AdminCommand)
@click.argument("model", type=Name())
@click.argument("key")
@reaching
def explain(model: str, key: str) -> None:
    """Which version a KEY gets, the value of the sticky header or cookie, and why."""
    if not key:
        raise click.UsageError("say which key to explain")
    with connected() as admin:
        answer(admin.get(f"/routes/{model}/explain?key={quote_from_bytes(os.fsencode(key), safe='')}"), _show_place)


@routes.command(cls=AdminCommand)
@click.argument("file")
@click.option("--key", "keys", multiple=True, help="A key to follow; may be given more than once.")
@click.option("--override-contract", is_flag=True, help="Also where versions break stable's contract.")
@reaching
def whatif(file: str, keys: tuple[str, ...], override_contract: bool) -> None:
    """Who would move if the route in FILE were put; `-` reads standard input. Nothing is changed."""
    model, route = _route_in(file)
    path = f"/routes/{model}/whatif" + (f"?{OVERRIDE}" if override_contract else "")
    with connected() as admin:
        answer(admin.post(path, {**route, "keys": list(keys)}), _show_moves)


def _route_in(file: str) -> tuple[str, Mapping[str, Any]]:
    try:
        return read_route(file)
    except InvalidSettings as error:
        for problem in error.problems:
            click.echo(clean(f"{problem.pointer or '/'}: {problem.message}"), err=True)
        sys.exit(REFUSED)


def _verb(
    admin: AdminClient,
    path: str,
    body: Mapping[str, Any],
    is_dry: bool,
    waits: bool,
    based_on: Mapping[str, str] | None = None,
    before: int | None = None,
    *,
    overrides: bool = False,
) -> None:
    said = {key: value for key, value in body.items() if value is not None}
    _require_one(is_dry, waits)
    parameters = f"{'?dry_run=1' if is_dry else WAIT if waits else '?'}&{OVERRIDE if overrides else ''}"
    reply: Reply = admin.post(path + parameters.rstrip("?&").replace("?&", "?"), said, based_on)
    answer(reply, _show_preview if is_dry else lambda document: _show_written(document, before))
    _exit_unless_applied(reply)


def _require_one(is_dry: bool, waits: bool) -> None:
    if is_dry and waits:
        raise click.UsageError("--dry-run writes nothing that --wait could wait for")


def _exit_unless_applied(reply: Reply) -> None:
    if isinstance(reply.plain, dict) and not reply.plain.get("applied", {"all": True})["all"]:
        sys.exit(REFUSED)


def _show_applied(seen: Mapping[str, Any]) -> None:
    if seen["all"]:
        say("every gateway on the store serves it", "green")
    for key, words in (("waiting_for", "does not serve it yet"), ("refused_by", "refused it and serves the last good")):
        for name in seen[key]:
            say(f"warning: {name} {words}", "yellow")
    for name, versions in seen.get("unready", {}).items():
        for why in versions.values():
            say(f"warning: {name}: {why}", "yellow")
    if "problem" in seen:
        say(f"warning: {seen['problem']}", "yellow")


def _show_list(found: Any) -> None:
    rows = []
    for item in found:
        if "error" in item:
            rows.append([cell(item["model"]), cell(item["revision"]), cell(""), cell(item["error"], "red"), cell("")])
            continue
        latched = cell(", ".join(item["latched"]), "red")
        row = [item["model"], item["revision"], item["stable"], weights(item["weights_ppm"])]
        rows.append([*(cell(value) for value in row), latched])
    if not rows:
        say("no route yet: turnout routes put FILE makes one")
        return
    table(["route", "revision", "stable", "weights", "latched"], rows, ["revision"], ["route", "weights", "latched"])


def _show_document(document: Any) -> None:
    lines = [f"# revision {document['revision']}"]
    lines += [f"# latched: {v} since {latch['at']}: {latch['reason']}" for v, latch in _latched(document).items()]
    for line in lines:
        click.echo(clean(line))
    click.echo(yaml.safe_dump(_spoken(document["route"]), sort_keys=False, default_flow_style=None), nl=False)


def _latched(document: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = document["guard"]["latched"]
    return found


def _spoken(value: Any) -> Any:
    """A route as people write it: shares in percent, nothing that is not said."""
    if isinstance(value, dict):
        said = {key: item for key, item in value.items() if item not in (None, [], {})}
        return {PERCENT.get(k, k): _percent(v) if k in PERCENT else _spoken(v) for k, v in said.items()}
    return [_spoken(item) for item in value] if isinstance(value, list) else value


def _percent(ppm: int) -> int | float:
    return ppm // 10_000 if ppm % 10_000 == 0 else ppm / 10_000


def _show_difference(preview: Any) -> None:
    for line in differences(preview["diff"]):
        say(f"  {line}")


def _show_preview(preview: Any) -> None:
    _show_difference(preview)
    say("dry run: nothing was written" if preview["would_change"] else "dry run: this changes nothing")
    _show_warnings(preview)


def _show_written(document: Any, before: int | None) -> None:
    _show_warnings(document)
    route, revision = document["route"], document["revision"]
    if revision == before:
        say(f"{route['model']}: nothing to change, revision {revision} stays")
    else:
        shares = ", ".join(f"{v['version']}: {percent(v['weight_ppm'])}" for v in route["variants"])
        latched = f"; latched: {', '.join(_latched(document))}" if _latched(document) else ""
        say(f"{route['model']}: revision {revision}; {shares}{latched}")
    if "applied" in document:
        _show_applied(document["applied"])


def _show_warnings(answered: Any) -> None:
    for warning in answered.get("warnings", ()):
        say(f"warning: {warning}", "yellow")


def _show_history(found: Any) -> None:
    rows = []
    for entry in found["entries"]:
        lines = differences(entry["diff"])
        told = [line for line in lines if line.startswith(("/route/", "/guard/"))] or lines
        more = [f"… and {len(told) - SHOWN_CHANGES} more"] if len(told) > SHOWN_CHANGES else []
        row = [entry["revision"], entry["at"], entry["verb"], entry["actor"], entry["reason"]]
        rows.append([*(cell(value) for value in row), cell("\n".join([*told[:SHOWN_CHANGES], *more]))])
    table(["revision", "at", "verb", "actor", "reason", "change"], rows, ["revision"], ["actor", "reason", "change"])
    if found.get("verified"):
        say("the hash chain is whole", "green")
    elif "verified" in found:
        say(f"the hash chain is broken at revision {found['first_broken_revision']}", "bold red")


def _show_place(found: Any) -> None:
    say(found["sentence"])
    if found["shadows"]:
        say(f"copies go to {', '.join(found['shadows'])}")


def _show_moves(found: Any) -> None:
    names = [*dict.fromkeys([*found["before"], *found["after"]])]
    rows = [[cell(name), *(cell(percent(found[side].get(name, 0))) for side in ("before", "after"))] for name in names]
    table(["version", "before", "after"], rows, ["before", "after"])
    about = "" if found["is_exact"] else "about "
    say(f"{about}{percent(found['moved_ppm'])} of the keys would move")
    for move in found["moves"]:
        say(f"  {about}{percent(move['ppm'])} from {move['from']} to {move['to']}")
    for item in found["keys"]:
        stays = item["before"] == item["after"]
        change = f"stays on {item['after']}" if stays else f"{item['before'] or 'nowhere'} -> {item['after']}"
        say(f"key {item['key']}: {change}")
    for note in found["notes"]:
        say(f"note: {note}", "yellow")
    _show_warnings(found)
