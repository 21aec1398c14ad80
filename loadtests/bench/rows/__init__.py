"""Every row of the benchmark, by name."""

from collections.abc import Callable, Mapping

from loadtests.bench.row import Contest
from loadtests.bench.rows import proxy

ROWS: Mapping[str, Callable[[], Contest]] = {
    "proxy": proxy.proxy,
    "proxy-varied-heads": proxy.varied_heads,
    "mirror": proxy.mirror,
    "split-envoy": proxy.split_envoy,
}
