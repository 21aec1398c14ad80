"""``turnout events``: what changes, as it changes."""

import json
import sys
import time
from typing import Any

import click

from gateway.commands.client import Event, Unreachable
from gateway.commands.console import differences, say
from gateway.commands.reach import AdminCommand, connected, reaching, wants_json

RETRY_S = 1.0
GIVE_UP_S = 60.0  # without an answer
SHOWN_CHANGES = 4
STYLE = {"flip": "red", "lower": "bold red", "delete": "yellow", "reset": "yellow", "warning": "yellow"}
NOTICES = {"warning", "cleared"}  # not of the store, but of the gateway that is asked


@click.command(cls=AdminCommand)
@click.option("--after", help="Begin after this event's id instead of now: nothing in between is missed.")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many events.")
@reaching
def events(after: str | None, limit: int | None) -> None:
    """Follow every change of every route, and warnings, until interrupted; resumes when the gateway goes and comes."""
    left = limit
    quiet_since: float | None = None
    with connected() as admin:
        while True:
            try:
                for event in admin.events(after):
                    after, quiet_since = event.position, None
                    if not event.kind:
                        continue
                    _show(event)
                    left = None if left is None else left - 1
                    if left == 0:
                        return
            except Unreachable:
                if after is None or (quiet_since is not None and time.monotonic() - quiet_since > GIVE_UP_S):
                    raise
            quiet_since = quiet_since or time.monotonic()
            time.sleep(RETRY_S)


def _show(event: Event) -> None:
    if wants_json():
        click.echo(event.data)
        sys.stdout.flush()
        return
    data: Any = json.loads(event.data)
    if event.kind == "reset":
        say(f"reset: {data['reason']}", STYLE["reset"])
        return
    if event.kind in NOTICES:
        about = f" version {data['version']}" if data["version"] else ""
        say(f"{event.kind}  {data['model']}{about}, {data['replica']}: {data['warning']}", STYLE.get(event.kind, ""))
        return
    words = [data["at"] or "", f"{data['model']} @{data['revision']}", event.kind, f"by {data['actor']}"]
    say("  ".join(word for word in words if word) + (f": {data['reason']}" if data["reason"] else ""), _style(event))
    lines = differences(data["diff"] or [])
    told = [line for line in lines if line.startswith(("/route/", "/guard/"))] or lines
    for line in told[:SHOWN_CHANGES]:
        say(f"  {line}")
    if len(told) > SHOWN_CHANGES:
        say(f"  … and {len(told) - SHOWN_CHANGES} more")


def _style(event: Event) -> str:
    return STYLE.get(event.kind, "")
