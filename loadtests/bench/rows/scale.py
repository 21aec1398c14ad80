"""Many models, and memory."""

import subprocess
from collections.abc import Mapping
from dataclasses import replace

from loadtests.bench.machine import PEERS, Lab
from loadtests.bench.measure import Summary
from loadtests.bench.row import Contest, Figure, Start
from loadtests.bench.servers import OWN_PYTHON, environment, in_process_route, pinned_version, repository, start_fastapi
from loadtests.bench.target import Load, Target
from loadtests.bench.turnout import commit, gateway
from loadtests.bench.workload import Workload, demo
from loadtests.bench.wrk import driver
from tests.gateway_process import DEMO

MANY = 1000
SESSIONS = 200  # loaded apart, to know what one takes
ROUTE_LIMIT_MB = 3.0
SLOWDOWN_LIMIT = 1.05
RSS_LIMIT = 1.2
FILES = ("credit/1", "credit/2", "sentiment/1", "sentiment/2")


def _turnout(name: str, count: int, asked: int) -> Start:
    def start(lab: Lab) -> Target:
        work = demo("credit", "1")
        names = [f"model-{n}" for n in range(count)]
        models = repository(lab.folder("models"), dict.fromkeys(names, work.file), ("1",))
        variants = {"stable": "1", "variants": [{"version": "1", "weight": 100}]}
        process = gateway(lab, [{**in_process_route(model), **variants} for model in names], models)
        question = work.json_question("/v2/models/model-0/infer")
        work.check(process.data_port, question)
        spread = replace(question, path=f"/v2/models/model-{{n/{asked}}}/infer")
        drive = driver(lab, process.data_port, spread)
        return Target(
            name, commit(), process.pid, drive, process.data_port
        )  # it rests: a thousand routes are looked after

    return start


def many_models() -> Contest:
    """The same small file behind every route."""
    starts = {
        "turnout": _turnout("turnout", MANY, 1),
        "turnout, all asked": _turnout("turnout, all asked", MANY, MANY),
        "turnout, 1 model": _turnout("turnout, 1 model", 1, 1),
    }
    what = f"{MANY} models and routes of demo's credit 1; one of them asked, all in turn, and one alone"
    return Contest("many-models", what, starts, derive=_of_many)


def _of_many(lab: Lab, found: Mapping[str, Summary]) -> list[Figure]:
    many, alone = found.get("turnout"), found.get("turnout, 1 model")
    if many is None or alone is None:
        return []
    session_mb = session_bytes(lab, demo("credit", "1")) / 1e6
    route_mb = (many.rss_bytes - alone.rss_bytes) / (MANY - 1) / 1e6
    return [
        Figure("CPU a request, 1,000 models / 1 model", many.cpu_us / alone.cpu_us, SLOWDOWN_LIMIT),
        Figure("a session alone, MB", session_mb),
        Figure("a route beyond its session, MB", route_mb - session_mb, ROUTE_LIMIT_MB),
    ]


def session_bytes(lab: Lab, work: Workload) -> float:
    """Resident memory that one more session of the file takes."""
    command = [OWN_PYTHON, str(PEERS / "sessions.py"), str(SESSIONS)]
    env = {**environment(work), "PATH": "/usr/bin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout)


def _asked_both(lab: Lab, name: str, version: str, pid: int, port: int, *, rests: bool) -> Target:
    """A load that asks both models, one after the other."""
    works = [demo(model, "1") for model in ("credit", "sentiment")]
    for work in works:
        work.check(port, work.json_question())
    drives = [driver(lab, port, work.json_question(), connections=8) for work in works]

    def drive(seconds: float) -> Load:
        loads = [drive(seconds / 2) for drive in drives]
        requests, ok, took_s = (sum(getattr(load, name) for load in loads) for name in ("requests", "ok", "seconds"))
        return replace(loads[-1], requests=requests, ok=ok, seconds=took_s)

    return Target(name, version, pid, drive, port, rests=rests)


def _rss_turnout(lab: Lab) -> Target:
    process = gateway(lab, [_stable_only(model) for model in ("credit", "sentiment")], DEMO / "models")
    return _asked_both(lab, "turnout", commit(), process.pid, process.data_port, rests=False)


def _stable_only(model: str) -> dict[str, object]:
    """Both versions are loaded, the first answers."""
    variants = [{"version": "1", "weight": 100}, {"version": "2", "weight": 0}]
    return {**in_process_route(model), "variants": variants}


def _rss_fastapi(lab: Lab) -> Target:
    files = ",".join(f"{file.partition('/')[0]}={DEMO}/models/{file}/model.onnx" for file in FILES)
    pid, port = start_fastapi(lab, {**environment(demo("credit", "1")), "MODEL_FILES": files})
    return _asked_both(lab, "fastapi", pinned_version("fastapi", "fastapi"), pid, port, rests=True)


def rss() -> Contest:
    """Memory of one worker with both models of the demo, two versions each."""

    def derive(_lab: Lab, found: Mapping[str, Summary]) -> list[Figure]:
        if len(found) < 2:
            return []
        ratio = found["turnout"].largest_rss_bytes / found["fastapi"].largest_rss_bytes
        return [Figure("RSS of the largest process, turnout / fastapi", ratio, RSS_LIMIT)]

    what = "memory with credit 1 and 2, sentiment 1 and 2, after requests to both"
    note = "The load is two models in turn: the figures of CPU and latency are those of no row."
    return Contest("rss", what, {"turnout": _rss_turnout, "fastapi": _rss_fastapi}, note=note, derive=derive)
