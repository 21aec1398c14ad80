"""Proxies in front of the same fixed upstream."""

from collections.abc import Callable
from functools import cache, partial

from loadtests.bench.proxies import envoy, haproxy, nginx, turnout
from loadtests.bench.row import Contest, Goal, Start
from loadtests.bench.target import Target
from loadtests.bench.upstream import question, start_upstream

PEERS: dict[str, Callable[..., Target]] = {
    "turnout": turnout,
    "turnout comparing": partial(turnout, compare=True),
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
}


def contenders(*names: str, varied: bool = False, mirror: bool = False) -> dict[str, Start]:
    """Starts of proxies that share one upstream."""
    upstream = cache(start_upstream)
    asked = question(varied=varied)

    def start(name: str) -> Start:
        return lambda lab: PEERS[name](lab, upstream(lab), asked, mirror=mirror)

    return {name: start(name) for name in names}


def proxy() -> Contest:
    """Heads repeat."""
    what = "proxy to a fixed upstream: 95/5, sticky, metrics, guard"
    return Contest("proxy", what, contenders("turnout", "nginx", "haproxy", "envoy"), [Goal("nginx", 1.1)])


def varied_heads() -> Contest:
    """No two heads are equal."""
    what = "the same, every request head different"
    peers = contenders("turnout", "nginx", "haproxy", "envoy", varied=True)
    return Contest("proxy-varied-heads", what, peers, [Goal("nginx", 1.3)])


def mirror() -> Contest:
    """Everything is copied to a shadow as well."""
    return Contest(
        "mirror",
        "95/5 and a mirror of 100 %",
        contenders("turnout", "turnout comparing", "nginx", "haproxy", "envoy", mirror=True),
        [Goal("nginx", 0.45), Goal("envoy", 0.45)],
        "Copies' answers are thrown away; turnout comparing holds them against stable's in 5 % of a core at most.",
    )


def split_envoy() -> Contest:
    """Against Envoy alone."""
    return Contest("split-envoy", "95/5 split", contenders("turnout", "envoy"), [Goal("envoy", 0.45)])
