"""What turnout costs in front of a real Triton."""

from collections.abc import Callable
from functools import cache

from loadtests.bench.machine import Lab
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
