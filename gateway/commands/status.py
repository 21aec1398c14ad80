"""``turnout status``: what serves, how it does, and what to look at."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.text import Text

from gateway.commands.console import cell, console, percent, say, table
from gateway.commands.reach import AdminCommand, Name, answer, connected, reaching, wants_json

COLUMNS = ["route", "version", "role", "weight", "state", "requests", "errors", "p50 ms", "p99 ms", "guard", "latched"]
NUMBERS = ["weight", "requests", "errors", "p50 ms", "p99 ms"]
STATE_STYLE = {"ready": "green", "loading": "yellow", "failed": "red", "closed": "red"}
NOT_AN_ERROR = {"ok", "malformed", "rejected", "cancelled"}  # the last three are the caller's
WIDE = 116  # columns of a terminal that has room for guard and latched beside the rest
PLAIN_ODDS = 1e12  # beyond it, digits say less than the exponent


@click.command(cls=AdminCommand)
@click.argument("model", type=Name(), required=False)
@reaching
def status(model: str | None) -> None:
    """What serves and how it does: one route, or the whole gateway."""
    with connected() as admin:
        if model is None:
            answer(admin.get("/status"), _show_everything)
            return
        answer(admin.get(f"/routes/{model}/status"), lambda route: _show_routes([route]))
        if not wants_json():
            answer(admin.get("/status"), _show_gateway)


def _show_everything(found: Any) -> None:
    if found["routes"]:
        _show_routes(found["routes"])
    elif found["routes"] is not None:
        say("no route yet: turnout routes put FILE makes one")
    _show_gateway(found)


def _show_routes(routes: Sequence[Mapping[str, Any]]) -> None:
    rows = [(route["model"], row) for route in routes for row in _rows(route)]
    if console().width >= WIDE:
        table(COLUMNS, [row for _, row in rows], NUMBERS, ["route", "guard"])
    else:
        table(COLUMNS[:-2], [row[:-2] for _, row in rows], NUMBERS, ["route"])
        for model, (_, version, *_, guard, latched) in rows:
            if told := [text.plain for text in (guard, latched) if text.plain != "-"]:
                say(f"{model} {version.plain}: {', '.join(told)}")
    for route in routes:
        for warning in [*route.get("warnings", ()), *([route["error"]] if "error" in route else [])]:
            say(f"warning: {route['model']}: {warning}", "yellow")


def _rows(route: Mapping[str, Any]) -> Iterator[Sequence[Text]]:
    name = cell(f"{route['model']} @{route['revision']}", "bold")
    variants = route.get("variants")
    if variants is None:  # stored, and not applied by the process that answered
        variants = [
            {"version": version, "weight_ppm": ppm, "role": "stable" if version == route.get("stable") else "canary"}
            for version, ppm in route.get("weights_ppm", {}).items()
        ] or [{"version": ""}]
    for variant in variants:
        yield [name, *_row(variant, variant["version"] in route.get("latched", ()))]
        name = Text("")


def _row(variant: Mapping[str, Any], is_latched: bool) -> list[Text]:
    outcomes: Mapping[str, int] = variant.get("counters", {}).get("outcomes", {})
    errors = sum(count for kind, count in outcomes.items() if kind not in NOT_AN_ERROR)
    latency = variant.get("latency", {})
    state = variant.get("state", "not applied")
    weight = variant.get("weight_ppm")
    return [
        cell(variant["version"]),
        cell(variant.get("role", "")),
        cell("" if weight is None else percent(weight)),
        cell(state, STATE_STYLE.get(state, "yellow")),
        cell(f"{sum(outcomes.values()):,}"),
        cell(f"{errors:,}", "red" if errors else ""),
        cell(_milliseconds(latency.get("p50_ms"))),
        cell(_milliseconds(latency.get("p99_ms"))),
        _guard(variant),
        cell("latched" if is_latched else "", "bold red" if is_latched else ""),
    ]


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _guard(variant: Mapping[str, Any]) -> Text:
    """How far the guard is: the objective nearest to its verdict, or the fuse."""
    guard = variant.get("guard")
    if guard is None:
        return cell("")
    if variant.get("lowered") or guard["tripped"]:
        return cell("lowered" if variant.get("lowered") else "tripped", "bold red")
    fuse = guard["fuse"]
    told = [f"fuse {fuse['run']} of {fuse['length']}"] if fuse["run"] or not guard["objectives"] else []
    known = [watch for watch in guard["objectives"].values() if watch["odds"] is not None]
    nearest = max(known, key=lambda watch: watch["odds"] / watch["c"], default=None)
    if nearest is not None:
        told.insert(0, f"odds {_odds(nearest['odds'])} : 1 of {_odds(nearest['c'])}")
    return cell(", ".join(told), "yellow" if fuse["run"] else "")


def _odds(value: float) -> str:
    return f"{value:,.0f}" if value < PLAIN_ODDS else f"{value:.2g}"


def _show_gateway(found: Any) -> None:
    store = found["store"]
    state = "draining" if found["draining"] else "ready" if found["ready"] else "not ready"
    away = found.get("store_error") or ("" if store["reachable"] else store["problem"] or "away")
    seen = f"cannot be reached: {away}" if away else "reachable"
    line = f"gateway {state}, {found['in_work']} in work, loop lag {found['loop_lag_ms']:g} ms; store {store['kind']}"
    say(f"{line} {seen}", "yellow" if away or state != "ready" else "")
    if store.get("stale"):
        say(f"warning: the store has been away for {store['away_s']:.0f} s: what serves may be old", "yellow")
    _show_workers(found.get("workers", ()))
    if found["unsent_lowers"] and not found.get("routes"):  # else the route says so
        say(f"warning: lowered here and not yet stored: {', '.join(found['unsent_lowers'])}", "yellow")
    others = [item for item in found.get("replicas") or () if item["name"] != found.get("replica")]
    if others:
        silent = sum(1 for item in others if item.get("is_silent"))
        say(f"{len(others) + 1 - silent} gateways on the store" + (f", {silent} silent" if silent else ""))
    for item in others:
        if item.get("is_silent"):
            since = "" if item.get("age_s") is None else f" for {item['age_s']:.0f} s"
            say(f"warning: {item['name']} has said nothing{since}: cut off from the store, stopped or dead", "yellow")
            continue
        for model, revision in item["refused"].items():
            say(f"warning: {model}: revision {revision} was refused by {item['name']}", "yellow")
        for model, versions in item.get("unready", {}).items():
            for why in versions.values():
                say(f"warning: {model}: {item['name']}: {why}", "yellow")
        for route in found.get("routes") or ():
            behind, stored = item["applied"].get(route["model"], 0), route["revision"]
            if behind < stored and route["model"] not in item["refused"]:
                say(f"warning: {route['model']}: {item['name']} does not serve revision {stored} yet", "yellow")
    told = {route["model"] for route in found.get("routes") or ()}
    for model, revision in found["refused"].items():
        if model in told:
            continue  # the route says so, and why
        say(f"warning: {model}: revision {revision} was refused, the last good one serves", "yellow")


def _show_workers(workers: Sequence[Mapping[str, Any]]) -> None:
    """How many there are, and those that are not as they should be."""
    if len(workers) > 1:
        shares = ", ".join(f"{worker.get('connections', '?')}" for worker in workers)
        say(f"{len(workers)} workers, connections {shares}")
    for worker in workers:
        if worker["state"] != "serving":
            again = f", ended {worker['failures']} times in a row" if worker.get("failures", 0) > 1 else ""
            say(f"warning: worker {worker['worker']} is {worker['state']}{again}", "yellow")
        elif worker.get("restarts"):
            say(f"worker {worker['worker']} was replaced {worker['restarts']} times", "yellow")
