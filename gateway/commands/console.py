"""Words and tables on a terminal, or in a pipe without colours and cuts."""

import io
import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 10_000  # a pipe has no width: nothing is wrapped or cut
LONGEST_VALUE = 120
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """Text that cannot steer a terminal: others wrote it. Controls and signs that turn the line are escaped."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def console() -> Console:
    """Standard output as it is now."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)


def say(line: str, style: str = "") -> None:
    """One line."""
    console().print(Text(clean(line), style=style))


def cell(text: Any, style: str = "") -> Text:
    """One cell; ``-`` when there is nothing to say."""
    return Text("\n".join(clean(line) for line in str(text).split("\n")) or "-", style=style)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Text]],
    numbers: Collection[str] = (),
    wrapped: Collection[str] = (),
) -> None:
    """A table; ``numbers`` stand to the right, only ``wrapped`` columns give way on a narrow terminal."""
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in columns:
        side: Literal["left", "right"] = "right" if name in numbers else "left"
        drawn.add_column(name, justify=side, no_wrap=name not in wrapped, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    console().print(drawn)


def percent(ppm: int) -> str:
    """Parts per million as percent."""
    return f"{ppm / 10_000:g} %"


def weights(by_version: Mapping[str, int]) -> str:
    """Every version with its weight."""
    return ", ".join(f"{version}: {percent(ppm)}" for version, ppm in by_version.items())


def differences(diff: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each difference; a document that is new shows what its route says."""
    lines = []
    for item in diff:
        before, after = item["before"], item["after"]
        if item["pointer"] == "" and before is None and isinstance(after, dict):
            route = after.get("route") or {}
            lines += [f"/route/{key} {_value(None)} -> {_value(value)}" for key, value in route.items() if value]
        else:
            lines.append(f"{item['pointer'] or '/'} {_value(before)} -> {_value(after)}")
    return lines


def _value(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
