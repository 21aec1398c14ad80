"""Nothing happens: open and closed users on both models, every answer checked."""

from loadtests.fleet import credit_route, fleet, url
from loadtests.options import Options
from loadtests.plan import Closed, Open, Plan
from loadtests.result import Result, none_of
from loadtests.stickiness import moved_within_a_revision
from loadtests.traffic import Traffic

SENTIMENT = {
    "model": "sentiment",
    "stable": "1",
    "variants": [{"version": "1", "weight": 90}, {"version": "2", "weight": 10}],
    "sticky": {"by": ["header:x-customer-id"]},
    "slo": {"errors": {"max_rate": 0.01}},
}


def steady(options: Options) -> Result:
    """Promises: every answer is right, and no customer changes sides."""
    rate = options.rate or 150
    routes = [credit_route(5, slo={"errors": {"max_rate": 0.01}}), SENTIMENT]
    result = Result("steady")
    with fleet(1, routes) as gateways:
        plan = Plan(
            [url(gateway) for gateway in gateways],
            options.seconds or 10,
            open=[
                Open("credit", rate * 0.8, options.seed, customers=300),
                Open("sentiment", rate * 0.2, options.seed + 1, customers=100),
            ],
            closed=[Closed("credit", users=2, seed=options.seed)],
        )
        with Traffic(plan) as traffic:
            result.samples = traffic.samples()
            result.statistics = traffic.statistics
    result.no_errors()
    result.promises.append(none_of("customers that changed sides", moved_within_a_revision(result.samples)))
    return result
