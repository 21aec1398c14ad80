"""What turnout costs in front of a real Triton."""

from collections.abc import Callable
from functools import cache, partial

from loadtests.bench.machine import Lab, free_port
from loadtests.bench.proxies import plain_nginx
from loadtests.bench.row import Contest, Goal, Start
from loadtests.bench.rows.models import SUFFIX, WORDS, Make
from loadtests.bench.servers import in_process_route, triton
from loadtests.bench.target import Target
from loadtests.bench.turnout import commit, gateway
from loadtests.bench.wrk import driver


def triton_front(make: Make) -> Callable[[], Contest]:
    """The gateway's CPU beside Triton's own, for the same calls."""

    def contest() -> Contest:
        work = cache(make)

        @cache
        def behind(lab: Lab) -> Target:
            return triton(lab, work(lab), core=lab.load_core, rests=False)

        def front(lab: Lab) -> Target:
            model = work(lab).model
            there = {"kind": "oip", "url": f"http://127.0.0.1:{behind(lab).port}", "model": model, "version": "1"}
            process = gateway(lab, [{**in_process_route(model), "backends": {"1": there, "2": there}}])
            asked = work(lab).json_question()
            work(lab).check(process.data_port, asked)
            drive = driver(lab, process.data_port, asked)
            return Target("turnout", commit(), process.pid, drive, process.data_port, rests=False)

        starts: dict[str, Start] = {"turnout": front, "triton": behind}
        what = f"in front of Triton over HTTP, {WORDS[make]}: turnout's own CPU, and Triton's when asked directly"
        return Contest(f"triton-front{SUFFIX[make]}", what, starts, [Goal("triton", 0.25)])

    return contest


def triton_proxy(make: Make) -> Callable[[], Contest]:
    """The gateway beside nginx, each in front of one Triton; the gateway by HTTP and by gRPC."""

    def contest() -> Contest:
        work, grpc_port = cache(make), cache(free_port)

        @cache
        def behind(lab: Lab) -> Target:
            return triton(lab, work(lab), core=lab.load_core, rests=False, grpc_port=grpc_port())

        def front(lab: Lab, name: str) -> Target:
            model, port = work(lab).model, behind(lab).port
            url = f"http://127.0.0.1:{port}" if name == "turnout" else f"grpc://127.0.0.1:{grpc_port()}"
            there = {"kind": "triton", "url": url, "model": model, "version": "1"}
            process = gateway(lab, [{**in_process_route(model), "backends": {"1": there, "2": there}}])
            asked = work(lab).json_question()
            work(lab).check(process.data_port, asked)
            drive = driver(lab, process.data_port, asked)
            return Target(name, commit(), process.pid, drive, process.data_port, rests=False)

        def peer(lab: Lab) -> Target:
            asked, port = work(lab).json_question(), behind(lab).port
            assert port is not None
            started = plain_nginx(lab, port, f"/v2/models/{work(lab).model}/ready", asked)
            work(lab).check(started.port, asked)
            return started

        starts: dict[str, Start] = {
            "turnout": partial(front, name="turnout"),
            "turnout grpc": partial(front, name="turnout grpc"),
            "nginx": peer,
        }
        what = f"proxies in front of one Triton, {WORDS[make]}: turnout by HTTP and by gRPC, nginx by HTTP"
        return Contest("triton-proxy", what, starts, [Goal("nginx", 1.2)])

    return contest
