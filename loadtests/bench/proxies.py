"""Proxies that do the gateway's routing: split, sticky by header, mirror where they can."""

import re
import subprocess

from loadtests.bench.machine import Lab, Missing, answers, free_port, program
from loadtests.bench.target import Question, Target
from loadtests.bench.templates import ENVOY_CLUSTER, ENVOY_MIRROR, MIRROR_LOCATION, MIRROR_ON, fill, write
from loadtests.bench.turnout import commit, gateway, proxy_route
from loadtests.bench.upstream import MODEL, Upstream, check_mirror, check_split
from loadtests.bench.wrk import driver

READY = f"/v2/models/{MODEL}/ready"


def version_of(*command: str) -> str:
    """The first version-like number that a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found[0] if found else "?"


def checked(port: int, upstream: Upstream, asked: Question, *, mirror: bool) -> str:
    """Hold a proxy's answers, split and copies against what it should do; a note for the table."""
    share = check_split(port, asked)
    if mirror:
        check_mirror(port, upstream, asked)
    return f"canary {share:.1%}"


def nginx(lab: Lab, upstream: Upstream, asked: Question, *, mirror: bool = False) -> Target:
    """nginx with ``split_clients``."""
    binary = program("nginx")
    folder, port = lab.folder("nginx"), free_port()
    path = write(
        folder,
        "nginx.conf",
        FOLDER=folder,
        PORT=port,
        STABLE_PORT=upstream.stable,
        CANARY_PORT=upstream.canary,
        SHADOW_PORT=upstream.shadow,
        MIRROR_ON=MIRROR_ON if mirror else "",
        MIRROR_LOCATION=MIRROR_LOCATION if mirror else "",
    )
    command = [binary, "-p", str(folder), "-c", str(path), "-e", str(folder / "error.log")]
    pid = lab.start(command, lab.sut_core, folder, answers(port, READY))
    note = checked(port, upstream, asked, mirror=mirror)
    return Target("nginx", version_of(binary, "-v"), pid, driver(lab, port, asked), port, note)


def plain_nginx(lab: Lab, port_behind: int, ready: str, asked: Question) -> Target:
    """nginx with ``split_clients``, both sides of which are one server."""
    binary = program("nginx")
    folder, port = lab.folder("nginx"), free_port()
    ports = dict.fromkeys(("STABLE_PORT", "CANARY_PORT", "SHADOW_PORT"), port_behind)
    path = write(folder, "nginx.conf", FOLDER=folder, PORT=port, MIRROR_ON="", MIRROR_LOCATION="", **ports)
    command = [binary, "-p", str(folder), "-c", str(path), "-e", str(folder / "error.log")]
    pid = lab.start(command, lab.sut_core, folder, answers(port, ready))
    return Target("nginx", version_of(binary, "-v"), pid, driver(lab, port, asked), port, rests=False)


def haproxy(lab: Lab, upstream: Upstream, asked: Question, *, mirror: bool = False) -> Target:
    """HAProxy with consistent hashing over weighted servers.

    Raises:
        Missing: A mirror is wanted; it has none.
    """
    if mirror:
        raise Missing("haproxy cannot mirror")
    binary = program("haproxy")
    folder, port = lab.folder("haproxy"), free_port()
    path = write(folder, "haproxy.cfg", PORT=port, STABLE_PORT=upstream.stable, CANARY_PORT=upstream.canary)
    pid = lab.start([binary, "-db", "-f", str(path)], lab.sut_core, folder, answers(port, READY))
    note = checked(port, upstream, asked, mirror=mirror)
    return Target("haproxy", version_of(binary, "-v"), pid, driver(lab, port, asked), port, note)


def envoy(lab: Lab, upstream: Upstream, asked: Question, *, mirror: bool = False) -> Target:
    """Envoy with weighted clusters."""
    binary = program("envoy", "envoy")
    folder, port = lab.folder("envoy"), free_port()
    arms = ("stable", "canary", "shadow") if mirror else ("stable", "canary")
    clusters = "".join(fill(ENVOY_CLUSTER, NAME=arm, PORT=getattr(upstream, arm)) for arm in arms)
    path = write(folder, "envoy.yaml", PORT=port, MIRROR=ENVOY_MIRROR if mirror else "", CLUSTERS=clusters)
    command = [binary, "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    pid = lab.start(command, lab.sut_core, folder, answers(port, READY))
    note = checked(port, upstream, asked, mirror=mirror)
    return Target("envoy", version_of(binary, "--version"), pid, driver(lab, port, asked), port, note)


def turnout(lab: Lab, upstream: Upstream, asked: Question, *, mirror: bool = False, compare: bool = False) -> Target:
    """turnout in front of the fixed upstream."""
    process = gateway(lab, [proxy_route(upstream, mirror=mirror, compare=compare)])
    note = checked(process.data_port, upstream, asked, mirror=mirror)
    drive = driver(lab, process.data_port, asked)
    name = "turnout comparing" if compare else "turnout"
    return Target(name, commit(), process.pid, drive, process.data_port, note, rests=False)
