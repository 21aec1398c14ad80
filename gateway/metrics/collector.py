"""One scrape: facts gathered on the loop, counts read and text written beside it."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from threading import Lock

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.metrics.families import FAMILIES, SERIES_REFUSED, Family
from gateway.metrics.text import INFINITE, Text, content_type
from gateway.metrics.totals import Blocks, Buckets, Labels, Samples, Value

Facts = Callable[[], Awaitable[Samples]]
OPENMETRICS = re.compile(r"application/openmetrics-text\s*(?:;[^,]*)?(?:,|$)")


class SampleCollector(Collector):
    """Samples as the library's families, for its registries."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        """Every family, also one without samples."""
        for family in FAMILIES.values():
            yield _metric(family, self._samples.get(family.name, {}))


def _metric(family: Family, samples: dict[Labels, Value]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.text, labels=family.labels)
        for labels, value in samples.items():
            assert isinstance(value, Buckets)
            histogram.add_metric(labels, list(_named(value)), value.sum_s)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.text, labels=family.labels)
    for labels, value in samples.items():
        assert not isinstance(value, Buckets)
        metric.add_metric(labels, value)
    return metric


def _named(buckets: Buckets) -> Iterator[tuple[str, float]]:
    edges = [*map(floatToGoString, buckets.edges_s), INFINITE]
    return zip(edges, buckets.counts, strict=True)


class Scraper:
    """Answers scrapes, one after another.

    Args:
        blocks: Counts of all workers.
        facts: What is true now, gathered on the loop without holding it for long.
    """

    def __init__(self, blocks: Blocks, facts: Facts) -> None:
        self._blocks = blocks
        self._facts = facts
        self._text = Text()
        self._turn = asyncio.Lock()
        self._at_work = Lock()  # a scrape that was cancelled leaves its thread behind

    async def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, OpenMetrics where ``accept`` names it."""
        is_openmetrics = OPENMETRICS.search(accept) is not None
        async with self._turn:
            facts = await self._facts()
            text = await asyncio.to_thread(self._render, facts, is_openmetrics)
        return text, content_type(is_openmetrics=is_openmetrics)

    def _render(self, facts: Samples, is_openmetrics: bool) -> bytes:
        with self._at_work:
            return self._text.render(self._add_up(facts), is_openmetrics=is_openmetrics)

    def _add_up(self, facts: Samples) -> Samples:
        sums = self._blocks.sums()
        return {**sums.samples(), SERIES_REFUSED.name: {(): sums.refused}, **facts}
