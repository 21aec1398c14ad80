"""An operator changes weights every second while traffic flows."""

import itertools
import time

from loadtests.fleet import credit_route, fleet, url
from loadtests.options import Options
from loadtests.plan import Closed, Open, Plan
from loadtests.result import Result, at_most, none_of
from loadtests.stickiness import moved_against_the_edit, moved_within_a_revision
from loadtests.traffic import Traffic
from tests.gateway_process import GatewayProcess

SHARES_PERCENT = (5, 10, 20, 40, 60, 40, 15, 30, 55, 25)
PERIOD_S = 1.0


def operator_edits(options: Options) -> Result:
    """Promises: no errors, and only those move whom the edit moves."""
    rate = options.rate or 200
    seconds = options.seconds or 12.0
    route = credit_route(SHARES_PERCENT[0], slo={"errors": {"max_rate": 0.01}})
    result = Result("operator-edits")
    with fleet(1, [route]) as (gateway,):
        plan = Plan(
            [url(gateway)],
            seconds,
            open=[Open("credit", rate * 0.9, options.seed, customers=400)],
            closed=[Closed("credit", users=1, customers=50, wait_s=10 / rate)],
        )
        with Traffic(plan) as traffic:
            shares, refused = _edit(gateway, traffic.begin_at, seconds)
            result.samples = traffic.samples()
            result.statistics = traffic.statistics
    result.no_errors()
    result.promises += [
        none_of("edits refused", refused),
        none_of("customers that changed sides within a revision", moved_within_a_revision(result.samples)),
        none_of("customers that moved against an edit", moved_against_the_edit(result.samples, shares)),
        at_most("edits that no client saw", 0, len(shares) - len({s.revision for s in result.samples})),
    ]
    result.figures["edits"] = len(shares) - 1
    return result


def _edit(gateway: GatewayProcess, begin_at: float, seconds: float) -> tuple[dict[int, int], list[str]]:
    """Edit until shortly before the end; the canary's share by revision, and what was refused."""
    shares = {int(gateway.document("credit")["revision"]): SHARES_PERCENT[0] * 10_000}
    refused = []
    percents = itertools.cycle(SHARES_PERCENT)
    next(percents)
    for n, percent in enumerate(percents, 1):
        due_at = begin_at + n * PERIOD_S
        if due_at > begin_at + seconds - PERIOD_S / 2:
            return shares, refused
        time.sleep(max(0.0, due_at - time.time()))
        answer = gateway.edit("credit", {"variants": credit_route(percent)["variants"]})
        if answer.status == 200:
            shares[answer.json()["revision"]] = percent * 10_000
        else:
            refused.append(f"{answer.status} {answer.body[:100]!r}")
    raise AssertionError("a cycle has no end")
