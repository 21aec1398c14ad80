"""Locust users that check every answer. Importing this patches the process for gevent: generators only."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, task
from locust.exception import StopUser

from loadtests import schedule
from loadtests.oracle import Row, problem_of
from loadtests.plan import Closed, Open
from loadtests.samples import Collector, Sample

CONNECTIONS = 128
IN_FLIGHT_MAX = 2_000  # beyond it an open user waits, and what is late counts as latency


class CheckedUser(FastHttpUser):
    """Sends rows of a corpus and records what came back, in our collector and in locust's statistics.

    Attributes:
        begin_s: Start of the traffic on ``time.perf_counter``.
        seconds: Length of the traffic.
        gateways: Base URLs; requests take turns.
    """

    abstract = True
    concurrency = CONNECTIONS
    network_timeout = connection_timeout = 60.0

    host = "http://127.0.0.1:8080"
    begin_s = 0.0
    seconds = 0.0
    gateways: Sequence[str] = ()
    corpus: Sequence[Row] = ()
    collector = Collector()
    numbers = itertools.count()

    def ask(
        self, model: str, n: int, key: str, scheduled_s: float | None = None, timeout_ms: int | None = None
    ) -> Sample:
        """Send the ``n``-th request; it was due at ``scheduled_s``."""
        row = self.corpus[n % len(self.corpus)]
        gateway = n % len(self.gateways) if self.gateways else 0
        url = f"{self.gateways[gateway] if self.gateways else self.host}/v2/models/{model}/infer"
        request_id = f"load-{next(self.numbers)}"
        headers = {"content-type": "application/json", "x-customer-id": key, "x-request-id": request_id}
        if timeout_ms is not None:
            headers["x-request-timeout-ms"] = str(timeout_ms)
        sent_s = time.perf_counter() - self.begin_s
        with self.client.post(url, data=row.body, headers=headers, name=model, catch_response=True) as response:
            done_s = time.perf_counter() - self.begin_s
            due_s = sent_s if scheduled_s is None else scheduled_s
            status, body = response.status_code, response.content
            found = {name.lower(): value for name, value in (response.headers or {}).items()}
            problem = problem_of(model, row, request_id, status, found, body)
            version, role, attempts, revision = (
                found.get(f"x-turnout-{name}", "") for name in ("version", "role", "attempts", "revision")
            )
            sample = Sample(
                model, due_s, sent_s, done_s, gateway, key, status, version, role, attempts, revision, problem
            )
            self.collector.add(sample)
            response.request_meta["name"] = f"{model} {version or '-'}"
            response.request_meta["response_time"] = sample.latency_s * 1000
            if problem:
                response.failure(problem)
            else:
                response.success()
        return sample


class OpenUser(CheckedUser):
    """One sender for a whole schedule: every request leaves in its own greenlet when it is due."""

    abstract = True
    fixed_count = 1
    traffic = Open("credit", 50)

    @task
    def send_all(self) -> None:
        """Go through the schedule once, wait for the last answer, and leave."""
        traffic = self.traffic
        all_times = schedule.poisson(traffic.rate, self.seconds, traffic.seed)
        times = [at_s for at_s in all_times if not schedule.is_pause(at_s, traffic.pause_s)]
        keys = schedule.customers(traffic.customers, len(times), traffic.seed)
        senders = Pool(IN_FLIGHT_MAX)
        for n, (due_s, key) in enumerate(zip(times, keys, strict=True)):
            wait_s = self.begin_s + due_s - time.perf_counter()
            if wait_s > 0:
                gevent.sleep(wait_s)
            senders.spawn(self.ask, traffic.model, n, key, due_s, traffic.timeout_ms)
        senders.join()
        raise StopUser


class ClosedUser(CheckedUser):
    """A user that waits for its answer before it asks again."""

    abstract = True
    concurrency = 1
    traffic = Closed("credit", 1)
    places = itertools.count()

    def on_start(self) -> None:
        """Every user has its own customers."""
        self.place = next(self.places)
        self.sent = 0

    def wait_time(self) -> float:
        """Pause between an answer and the next request."""
        return self.traffic.wait_s

    @task
    def send_one(self) -> None:
        """Ask once; leave when the time is over (``seconds`` of 0: never)."""
        if self.seconds and time.perf_counter() - self.begin_s >= self.seconds:
            raise StopUser
        traffic = self.traffic
        customer = (self.place + self.sent * traffic.users) % traffic.customers
        self.ask(traffic.model, self.sent * traffic.users + self.place, f"regular-{customer}")
        self.sent += 1


def user_class(base: type[CheckedUser], name: str, **values: Any) -> type[CheckedUser]:
    """A concrete user with these class attributes, as locust wants it."""
    return type(name, (base,), {**values, "abstract": False})
