"""What is done to the fleet, and how it is undone."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.client import Client
from tests.chaos.fleet import WORKER_SILENT_S, Fleet
from tests.gateway_process import eventually

SLOW_S = 0.4
RESTART_S = 40.0

Act = Callable[[Fleet, Client], None]


def nothing(_fleet: Fleet, _client: Client) -> None:
    """No fault, or one that heals by itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``strike``, a while, ``heal``."""

    name: str
    strike: Act
    heal: Act = nothing


# Redis.


def redis_comes_back(fleet: Fleet, _client: Client) -> None:
    fleet.redis.start()


def redis_comes_back_empty(fleet: Fleet, _client: Client) -> None:
    fleet.redis.forget()
    fleet.redis.start()


def redis_is_slow(fleet: Fleet, _client: Client) -> None:
    for proxy in fleet.store:
        proxy.slow(SLOW_S)


def redis_resets(fleet: Fleet, _client: Client) -> None:
    for proxy in fleet.store:
        proxy.reset(refuse=True)


def one_loses_redis(fleet: Fleet, _client: Client) -> None:
    fleet.store[0].reset(refuse=True)


def redis_links_heal(fleet: Fleet, _client: Client) -> None:
    for proxy in fleet.store:
        proxy.heal()


REDIS_KILLED = Fault("redis kill -9, back with its data", lambda f, _: f.redis.kill(), redis_comes_back)
REDIS_LOST = Fault("redis kill -9, back empty", lambda f, _: f.redis.kill(), redis_comes_back_empty)
REDIS_FROZEN = Fault("redis SIGSTOP", lambda f, _: f.redis.pause(), lambda f, _: f.redis.resume())
REDIS_FLUSHED = Fault("redis FLUSHALL", lambda f, _: f.redis.flush())
REDIS_SLOW = Fault("redis slow", redis_is_slow, redis_links_heal)
REDIS_RESET = Fault("redis connections reset and refused", redis_resets, redis_links_heal)
REDIS_PARTED = Fault("one replica loses redis", one_loses_redis, redis_links_heal)

# The canary's server.


def canary_resets(fleet: Fleet, _client: Client) -> None:
    for _ in range(5):
        fleet.wire.reset()
        time.sleep(0.1)


def canary_comes_back(fleet: Fleet, _client: Client) -> None:
    fleet.canary.start()


CANARY_KILLED = Fault("canary kill -9", lambda f, _: f.canary.kill(), canary_comes_back)
CANARY_FROZEN = Fault("canary SIGSTOP", lambda f, _: f.canary.pause(), lambda f, _: f.canary.resume())
CANARY_RESET = Fault("canary connections reset", canary_resets)
CANARY_SLOW = Fault("canary slow", lambda f, _: f.wire.slow(SLOW_S), lambda f, _: f.wire.heal())

# Gateways.


def worker_dies(fleet: Fleet, client: Client) -> None:
    client.ledger.deaths.append(fleet.replicas[0].kill_worker(0))


def worker_hangs(fleet: Fleet, client: Client) -> None:
    """Longer than its supervisor bears: it is killed and replaced."""
    pid = fleet.replicas[0].stop_worker(1)
    time.sleep(WORKER_SILENT_S / 2)
    client.ledger.deaths.append(fleet.replicas[0].bury_worker(pid))


def worker_pauses(fleet: Fleet, _client: Client) -> None:
    """Shorter than its supervisor bears: everybody on it waits, and is answered."""
    pid = fleet.replicas[0].stop_worker(1)
    time.sleep(WORKER_SILENT_S / 3)
    fleet.replicas[0].wake_worker(pid)


def supervisor_dies(fleet: Fleet, client: Client) -> None:
    client.ledger.deaths.append(fleet.replicas[0].kill_supervisor())


def replica_dies(fleet: Fleet, client: Client) -> None:
    client.ledger.deaths.append(fleet.replicas[0].kill_all())


def replica_comes_back(fleet: Fleet, client: Client) -> None:
    fleet.replicas[0].start()
    eventually(lambda: fleet.replicas[0].read("/status"), RESTART_S, "the replica is back")
    client.ledger.up_again[0] = time.monotonic()


def clients_reset(_fleet: Fleet, client: Client) -> None:
    for _ in range(20):
        client.reset_some(4)
        time.sleep(0.025)


WORKER_KILLED = Fault("worker kill -9", worker_dies)
WORKER_FROZEN = Fault("worker SIGSTOP for good", worker_hangs)
WORKER_PAUSED = Fault("worker SIGSTOP for a moment", worker_pauses)
SUPERVISOR_KILLED = Fault("supervisor kill -9", supervisor_dies, replica_comes_back)
SUPERVISOR_FROZEN = Fault(
    "supervisor SIGSTOP",
    lambda f, _: f.replicas[0].signal(signal.SIGSTOP),
    lambda f, _: f.replicas[0].signal(signal.SIGCONT),
)
REPLICA_KILLED = Fault("replica kill -9", replica_dies, replica_comes_back)
REPLICA_FROZEN = Fault(
    "replica SIGSTOP",
    lambda f, _: f.replicas[0].stop_all(signal.SIGSTOP),
    lambda f, _: f.replicas[0].stop_all(signal.SIGCONT),
)
CLIENTS_RESET = Fault("clients reset their connections", clients_reset)
