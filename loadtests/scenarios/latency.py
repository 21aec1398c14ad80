"""How long an edit takes to reach the answers of another gateway."""

import time
from typing import Any

from loadtests.fleet import credit_route, fleet
from loadtests.options import Options
from loadtests.oracle import rows
from loadtests.result import Result, at_most
from loadtests.samples import percentile
from tests.gateway_process import Client

LIMIT_MS = 50.0
LOST_S = 5.0  # an edit that has not arrived by then counts with this time
PERCENTS = (5.0, 6.0)


def edit_latency(options: Options) -> Result:
    """Promise: the 99th percentile, from the acknowledgement and from the send, is below 50 ms."""
    result = Result("edit-latency")
    body = rows("credit")[0].body
    since_sent, since_acknowledged, took, polls = [], [], [], []
    with fleet(2, [credit_route(PERCENTS[0])]) as (first, second), first.admin() as admin, second.client() as client:
        etag = admin.send("GET", "/admin/v1/routes/credit").headers["etag"]
        for n in range(1, options.edits + 1):
            variants = credit_route(PERCENTS[n % 2])["variants"]
            sent_s = time.perf_counter()
            answer = admin.send("PATCH", "/admin/v1/routes/credit", {"variants": variants}, {"if-match": etag})
            acknowledged_s = time.perf_counter()
            if answer.status != 200:
                raise RuntimeError(f"an edit was refused: {answer.status} {answer.body[:200]!r}")
            etag = answer.headers["etag"]
            arrived_s, asked = _await_revision(client, body, int(answer.json()["revision"]))
            since_sent.append((arrived_s - sent_s) * 1000)
            since_acknowledged.append((arrived_s - acknowledged_s) * 1000)
            took.append((acknowledged_s - sent_s) * 1000)
            polls.append(asked)
    result.figures = _figures(since_sent, since_acknowledged, took, polls)
    result.promises = [
        at_most("p99 from the acknowledgement", LIMIT_MS, percentile(since_acknowledged, 0.99), " ms"),
        at_most("p99 from the send", LIMIT_MS, percentile(since_sent, 0.99), " ms"),
    ]
    return result


def _await_revision(client: Client, body: bytes, revision: int) -> tuple[float, int]:
    """When the first answer with the revision had come, and how many it took. Asking is the resolution, 1 ms or so."""
    give_up_s = time.perf_counter() + LOST_S
    for asked in range(1, 1_000_000):
        answer = client.infer("credit", body, version="1")
        now_s = time.perf_counter()
        if int(answer.headers["x-turnout-revision"]) >= revision or now_s > give_up_s:
            return now_s, asked
    raise AssertionError("unreachable within the time limit")


def _figures(
    since_sent: list[float], since_acknowledged: list[float], took: list[float], polls: list[int]
) -> dict[str, Any]:
    figures: dict[str, Any] = {"edits": len(since_sent)}
    series = {"from the send": since_sent, "from the acknowledgement": since_acknowledged, "the edit itself": took}
    for name, values in series.items():
        figures |= {f"{name} p{q:g} ms": percentile(values, q / 100) for q in (50, 99, 100)}
        figures[f"{name}, all ms"] = [round(value, 3) for value in values]
    figures["edits that the first answer already carried"] = sum(asked == 1 for asked in polls)
    return figures
