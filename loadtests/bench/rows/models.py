"""Servers of models at the same requests."""

from collections.abc import Callable
from functools import cache

from loadtests.bench.machine import Lab
from loadtests.bench.row import Contest, Goal, Start
from loadtests.bench.servers import PEERS_BY_NAME, bare, turnout
from loadtests.bench.workload import Workload, demo, small

ROWS = 64
Make = Callable[[Lab], Workload]
GOALS = [Goal("fastapi", 1 / 12), Goal("mlserver", 1 / 25), Goal("litserve", 1 / 45), Goal("litserve batching", 1 / 45)]


def credit(_lab: Lab) -> Workload:
    """The demo's gradient boosting, with text among its inputs."""
    return demo("credit", "2")


def small_trees(lab: Lab) -> Workload:
    """Numbers alone, and a quarter of the work."""
    return small(lab.folder("small"))


SUFFIX: dict[Make, str] = {credit: "", small_trees: "-small"}
WORDS: dict[Make, str] = {credit: "demo's credit 2", small_trees: "100 trees over 20 numbers"}


def _peers(make: Make, names: tuple[str, ...]) -> dict[str, Start]:
    def start(name: str) -> Start:
        return lambda lab: PEERS_BY_NAME[name](lab, make(lab))

    return {name: start(name) for name in names}


def model_json(make: Make) -> Callable[[], Contest]:
    """One row, JSON, 64 connections."""

    def contest() -> Contest:
        work = cache(make)
        peers = _peers(work, ("fastapi", "fastapi raw", "litserve", "litserve batching", "mlserver", "bentoml"))
        starts: dict[str, Start] = {"turnout": lambda lab: turnout(lab, work(lab)), **peers}
        what = f"one row of JSON, {WORDS[make]} in process"
        return Contest(f"model-json{SUFFIX[make]}", what, starts, GOALS)

    return contest


def model_triton(make: Make) -> Callable[[], Contest]:
    """The same against Triton."""

    def contest() -> Contest:
        work = cache(make)
        starts: dict[str, Start] = {"turnout": lambda lab: turnout(lab, work(lab))}
        goals = [Goal("triton", 0.25), Goal("triton batching", 0.25)]
        what = f"one row of JSON, {WORDS[make]}; Triton's python backend"
        return Contest(
            f"model-triton{SUFFIX[make]}", what, {**starts, **_peers(work, ("triton", "triton batching"))}, goals
        )

    return contest


def throughput(make: Make) -> Callable[[], Contest]:
    """Requests a full core allows, beside the bare loop."""

    def contest() -> Contest:
        work = cache(make)
        starts: dict[str, Start] = {
            "turnout": lambda lab: turnout(lab, work(lab)),
            "turnout binary": lambda lab: turnout(lab, work(lab), work(lab).binary_question(), name="turnout binary"),
            "bare session.run": lambda lab: bare(lab, work(lab)),
        }
        floor = "bare session.run"
        goals = [
            Goal(floor, 0.5, "rps_per_core", at_least=True),
            Goal(floor, 0.6, "rps_per_core", at_least=True, ours="turnout binary"),
        ]
        what = f"single rows, {WORDS[make]}, beside a loop of session.run"
        return Contest(f"model-throughput{SUFFIX[make]}", what, starts, goals)

    return contest


def rows64(make: Make) -> Callable[[], Contest]:
    """64 rows a request."""

    def contest() -> Contest:
        single = cache(make)
        work = cache(lambda lab: single(lab).batched(ROWS))
        starts: dict[str, Start] = {
            "turnout": lambda lab: turnout(lab, work(lab), work(lab).binary_question()),
            "bare session.run": lambda lab: bare(lab, work(lab)),
            **_peers(work, ("mlserver",)),
        }
        goals = [Goal("mlserver", 0.25), Goal("bare session.run", 0.5, "rps_per_core", at_least=True)]
        note = "MLServer refuses binary tensors and gets the same rows as JSON."
        what = f"{ROWS} rows a request, binary, {WORDS[make]}"
        return Contest(f"rows64-binary{SUFFIX[make]}", what, starts, goals, note)

    return contest


def sentiment() -> Contest:
    """A model of milliseconds."""
    work = cache(lambda _lab: demo("sentiment", "2"))
    starts: dict[str, Start] = {
        "turnout": lambda lab: turnout(lab, work(lab)),
        "bare session.run": lambda lab: bare(lab, work(lab), (1, 2, 4, 8, 16, 32, 64)),
    }
    goals = [Goal("bare session.run", 0.9, "rps_per_core", at_least=True)]
    what = "demo's sentiment 2, one row, 64 clients, beside session.run at its best batch size"
    return Contest("sentiment", what, starts, goals)
