"""Several gateways on one Redis: how soon an edit serves everywhere, and what a Redis that hangs does to clients."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from loadtests.fleet import credit_route, gateways_on, url
from loadtests.monitor import Monitor
from loadtests.options import Options
from loadtests.oracle import rows
from loadtests.plan import Open, Plan
from loadtests.result import Result, at_most, none_of
from loadtests.samples import Sample, percentile
from loadtests.traffic import Traffic
from tests.gateway_process import Client, GatewayProcess, eventually
from tests.redis_server import RedisServer

REPLICAS = 3
PAUSE_S = 0.015  # between two edits
P50_MS, P99_MS = 5.0, 50.0
SETTLE_S = 5.0
THAW_S = 1.0
FROZEN_S = 60.0
SLACK = 3.0  # p99 with Redis frozen, beside the larger one of before and after, in ms: noise of a busy machine
SPAN_S = 2.0
STALE_AFTER_S = 10.0  # the default


def convergence(options: Options) -> Result:
    """Promises: an edit serves on every gateway in time; none is lost, none takes a step back."""
    result = Result("convergence")
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        gateways = stack.enter_context(gateways_on(redis.url, REPLICAS, [credit_route(5)]))
        monitor = stack.enter_context(Monitor(redis.port, "credit"))
        first = int(gateways[0].document("credit")["revision"])
        admins = [stack.enter_context(gateway.admin()) for gateway in gateways]
        acknowledged, refused = _edit(admins, first, options.edits)
        newest = first + len(acknowledged)
        eventually(lambda: {_revision(gateway) for gateway in gateways} == {newest}, SETTLE_S, "the last edit")
        time.sleep(0.2)
        seen = monitor.seen
        verified = admins[0].send("GET", "/admin/v1/routes/credit/history?verify=1&limit=1").json()
    served_s = seen.served_s()
    known = [revision for revision in acknowledged if revision in served_s]
    written_ms = [1000 * (served_s[revision] - seen.written[revision]) for revision in known]
    times_ms = [1000 * max(0.0, served_s[revision] - acknowledged[revision]) for revision in known]
    result.promises += [
        at_most("from the acknowledgement until all serve it, p50", P50_MS, percentile(times_ms, 0.5), " ms"),
        at_most("from the acknowledgement until all serve it, p99", P99_MS, percentile(times_ms, 0.99), " ms"),
        none_of("edits refused", refused),
        none_of("edits lost", [str(revision) for revision in acknowledged if revision not in seen.written]),
        none_of("steps back", seen.steps_back()),
        at_most("edits that nobody can say are served everywhere", 0, len(acknowledged) - len(known)),
        at_most("chain of the history broken", 0, int(not verified["verified"])),
    ]
    result.figures |= {"edits": len(acknowledged), "gateways": REPLICAS}
    for name, series in (("the acknowledgement", times_ms), ("the write", written_ms)):
        result.figures |= {f"from {name} p{q:g} ms": percentile(series, q / 100) for q in (50, 99, 100)}
        result.figures[f"from {name}, all ms"] = [round(took_ms, 3) for took_ms in series]
    return result


def _edit(admins: Sequence[Client], first: int, edits: int) -> tuple[dict[int, float], list[str]]:
    """Edit on the gateways in turn; when each revision was acknowledged, by the clock that Redis has too; refusals."""
    acknowledged: dict[int, float] = {}
    refused: list[str] = []
    revision = first
    for number in range(edits):
        variants = credit_route(6 - number % 2)["variants"]
        admin = admins[number % len(admins)]
        condition = {"if-match": f'"{revision}"'}
        answer = admin.send("PATCH", "/admin/v1/routes/credit", {"variants": variants}, condition)
        if answer.status != 200:
            refused.append(f"{answer.status} {answer.body[:100]!r}")
            continue
        acknowledged_s = time.time()
        revision = int(answer.json()["revision"])
        acknowledged[revision] = acknowledged_s
        time.sleep(PAUSE_S)
    return acknowledged, refused


def redis_frozen(options: Options) -> Result:
    """Promises: clients notice nothing of a Redis that hangs; afterwards all agree within a second."""
    rate = options.rate or 100
    frozen_s = options.seconds or FROZEN_S
    result = Result("redis-frozen")
    route = credit_route(5, slo={"errors": {"max_rate": 0.01}})
    stale_s = min(STALE_AFTER_S, frozen_s / 4)
    with RedisServer() as redis, gateways_on(redis.url, REPLICAS, [route], stale_after_s=stale_s) as gateways:
        plan = Plan([url(one) for one in gateways], 3 * frozen_s, open=[Open("credit", rate, options.seed, 300)])
        with Traffic(plan) as traffic:
            _sleep_until(traffic.begin_at + frozen_s)
            redis.pause()
            try:
                _sleep_until(traffic.begin_at + 2 * frozen_s)
                stale = [one.folder.name for one in gateways if not _says_stale(one)]
            finally:
                redis.resume()
            thawed_s = time.monotonic()
            edited = eventually(lambda: _edited(gateways[0]), SETTLE_S, "an edit after the thaw")
            eventually(lambda: {_revision(one) for one in gateways} == {edited}, SETTLE_S, "all to serve it")
            converged_s = time.monotonic() - thawed_s
            result.samples = traffic.samples()
            result.statistics = traffic.statistics
        time.sleep(1.0)
        drawn = [_drawn(one) for one in gateways]
    parts = [[s for s in result.samples if int(s.scheduled_s // frozen_s) == n] for n in range(3)]
    p99_ms = [_calm_p99_ms(part) for part in parts]
    result.no_errors()
    result.promises += [
        at_most("p99 with Redis frozen beyond the one without", SLACK, p99_ms[1] - max(p99_ms[0], p99_ms[2]), " ms"),
        at_most("from the thaw until an edit serves everywhere", THAW_S, converged_s, " s"),
        none_of("gateways that did not say they were stale", stale),
        at_most("different totals on the gateways", 1, len(set(drawn))),
        at_most("requests that the totals lack, or have too many", 0, abs(len(result.samples) - max(drawn))),
    ]
    result.figures |= {
        "gateways": REPLICAS,
        "frozen_s": frozen_s,
        "p99_before_ms": p99_ms[0],
        "p99_frozen_ms": p99_ms[1],
        "p99_after_ms": p99_ms[2],
        "requests_a_second": [round(len(part) / frozen_s, 1) for part in parts],
        "converged_after_thaw_s": converged_s,
    }
    return result


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.time()))


def _revision(gateway: GatewayProcess) -> int:
    """That the gateway serves."""
    with gateway.client() as client:
        answer = client.infer("credit", rows("credit")[0].body, version="1")
    return int(answer.headers["x-turnout-revision"])


def _edited(gateway: GatewayProcess) -> int | None:
    answer = gateway.edit("credit", {"enforce": False})  # one that begins no new epoch
    return int(answer.json()["revision"]) if answer.status == 200 else None


def _says_stale(gateway: GatewayProcess) -> bool:
    with gateway.client() as client:
        answer = client.send("GET", "/v2/health/ready")
    return answer.status == 200 and "stale" in answer.json()


def _drawn(gateway: GatewayProcess) -> int:
    """Requests of all gateways, as one of them tells it."""
    return sum(variant["counters"]["drawn"] for variant in gateway.status("credit")["variants"])


def _calm_p99_ms(samples: Sequence[Sample]) -> float:
    """Median of the 99th percentiles of spans: one hiccup of the machine is none of Redis'."""
    spans: dict[int, list[float]] = {}
    for sample in samples:
        spans.setdefault(int(sample.scheduled_s // SPAN_S), []).append(sample.latency_s * 1000)
    return median(percentile(values, 0.99) for values in spans.values())
