"""Samples as text, for Prometheus and as OpenMetrics: what ``prometheus_client`` writes, byte for byte.

The library builds every line anew at 5 to 20 microseconds each, and two hundred routes have over ten thousand. Here the
part of a line that does not change between scrapes is kept.
"""

from collections.abc import Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE
from prometheus_client.utils import floatToGoString

from gateway.metrics.families import FAMILIES, Family
from gateway.metrics.pace import give_way
from gateway.metrics.totals import Buckets, Labels, Samples, Value

SMALL = 1_000_000  # below it the library writes all digits of a number
INFINITE = "+Inf"


class Text:
    """Renders samples. Keeps the unchanging parts of those it rendered last, and no others."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Labels, tuple[float, ...]], list[str]] = {}

    def render(self, samples: Samples, *, is_openmetrics: bool = False) -> bytes:
        """All samples. One call at a time."""
        kept: dict[tuple[str, Labels, tuple[float, ...]], list[str]] = {}
        lines = []
        turn_s = 0.0
        for family in FAMILIES.values():
            name = family.name.removesuffix("_total") if is_openmetrics else family.name
            lines.append(f"# HELP {name} {family.text}\n# TYPE {name} {family.kind}\n")
            for labels, value in samples.get(family.name, {}).items():
                turn_s = give_way(turn_s)
                edges_s = value.edges_s if isinstance(value, Buckets) else ()
                key = (family.name, labels, edges_s)
                heads = kept[key] = self._kept.get(key) or list(_heads(family, labels, edges_s))
                lines += _lines(heads, value)
        self._kept = kept
        if is_openmetrics:
            lines.append("# EOF\n")
        return "".join(lines).encode()


def content_type(*, is_openmetrics: bool) -> str:
    """What the text says it is."""
    return OPENMETRICS_TYPE if is_openmetrics else CONTENT_TYPE_LATEST


def _lines(heads: Sequence[str], value: Value) -> list[str]:
    if not isinstance(value, Buckets):
        return [f"{heads[0]}{_number(value)}\n"]
    counts = (*value.counts, value.counts[-1])
    if counts[-1] < SMALL:
        lines = [f"{head}{count}.0\n" for head, count in zip(heads, counts, strict=False)]
    else:
        lines = [f"{head}{_number(count)}\n" for head, count in zip(heads, counts, strict=False)]
    lines.append(f"{heads[-1]}{_number(value.sum_s)}\n")
    return lines


def _number(value: float) -> str:
    if isinstance(value, int) and 0 <= value < SMALL:
        return f"{value}.0"
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _heads(family: Family, labels: Labels, edges_s: tuple[float, ...]) -> Iterator[str]:
    """Each line of a sample up to its number."""
    named = dict(zip(family.labels, labels, strict=True))
    if not edges_s:
        yield _head(family.name, named)
        return
    for edge in [*map(floatToGoString, edges_s), INFINITE]:
        yield _head(family.name + "_bucket", {**named, "le": str(edge)})
    yield _head(family.name + "_count", named)
    yield _head(family.name + "_sum", named)


def _head(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{label}="{_escaped(labels[label])}"' for label in sorted(labels))
    return f"{name}{{{inner}}} " if labels else f"{name} "


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
