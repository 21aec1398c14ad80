"""What one look at everything in flight sees, in whatever order it lies there."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.app import Worker
from gateway.dataplane.exchange import Exchange
from gateway.settings import Settings
from routing.parse import parse_route
from tests.gateway.backends.remote import answers, raw_server, until
from tests.joined import Joined, doors

BODY = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[0.1,0.2,0.3,0.4]}]}'
HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\nx-customer-id: c%d\r\n\r\n"


class CanariesFirst(set[Exchange]):
    """The order that tells of a canary before it tells of stable."""

    def __iter__(self) -> Iterator[Exchange]:
        return iter(sorted(super().__iter__(), key=lambda exchange: exchange.trial is None))


def is_ready(worker: Worker) -> bool:
    routes = worker.runtime.current.routes
    return "m" in routes and all(arm.takes_draws for arm in routes["m"].arms)


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_look_counts_what_is_slow_of_stable_before_it_judges_a_canary(is_shared: bool, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(raw_server(answers())) for _ in "12"]
            route = {
                "model": "m",
                "stable": "1",
                "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
                "sticky": {"by": ["header:x-customer-id"], "salt": "s"},
                "slo": {"latency": {"p99_ms": 100}},
                "backends": {str(n): {"kind": "oip", "url": url} for n, url in enumerate(urls, 1)},
            }
            both = Joined(Settings(store={"url": "memory:"}, state_dir=tmp_path), [parse_route(route)])
            await both.host.start()
            try:
                await until(lambda: is_ready(both.worker))
                compiled = both.worker.runtime.current.routes["m"]
                both.worker.pipeline.in_work = CanariesFirst()
                canary = compiled.by_version["2"]
                several = [n for n in range(60) if compiled.arms[compiled.plan.choose(b"c%d" % n)] is canary][:8]
                if is_shared:
                    several += [n for n in range(60) if n not in several][:8]
                for door, n in zip(doors(both.worker, 16), several, strict=False):
                    door.data_received(HEAD % (len(BODY), n) + BODY)
                await until(lambda: bool(canary.evidence.alarm or canary.evidence.lowered))
                assert canary.evidence.lowered is not is_shared
                assert ("stable breaks latency_p99 too" in canary.evidence.alarm) is is_shared
            finally:
                await both.worker.stop()
                await both.host.stop()

    asyncio.run(scenario())
