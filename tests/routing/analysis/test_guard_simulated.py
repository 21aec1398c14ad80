"""Seeded simulations of what the guard promises; p0 is 1 % and c a million unless said otherwise."""

from collections.abc import Iterator
from math import log
from random import Random
from statistics import median, quantiles
from typing import Literal, NamedTuple

import pytest

from routing.analysis.ecusum import Ecusum, fuse_length
from routing.analysis.guard import Detector, KeyCap
from routing.analysis.merged import MergedDetector, Slot
from routing.analysis.objective import Trip, objectives
from routing.analysis.ordered import OrderedCusum
from routing.analysis.slots import SLOT_S, SlotNews

P0 = 0.01
STREAMS = 60


def gaps(random: Random, rate: float) -> Iterator[int]:
    """Good attempts before each failure of a stream that fails at ``rate``."""
    while True:
        yield 0 if rate >= 1 else int(log(1 - random.random()) / log(1 - rate))


def trips_after(random: Random, rate: float, healthy: int = 0, limit: int = 10**9) -> int | None:
    """Attempts from ticket ``healthy`` on until the e-CUSUM alone trips."""
    kept = OrderedCusum(Ecusum(P0), None)
    ticket = -1
    for gap in gaps(random, P0 / 2):
        ticket += gap + 1
        if ticket >= healthy:
            break
        kept.hit(ticket, capped=False)
    ticket = healthy - 1
    for gap in gaps(random, rate):
        ticket += gap + 1
        if ticket >= healthy + limit:
            return None
        if kept.hit(ticket, capped=False):
            return ticket - healthy + 1
    raise AssertionError


@pytest.mark.parametrize(
    ("rate", "typical", "slowest"),
    [(1.0, 4, 4), (0.5, 9, 18), (0.2, 33, 64), (0.1, 96, 198), (0.05, 319, 702)],
)
def test_a_breach_after_two_thousand_healthy_requests_is_seen_in_time(rate: float, typical: int, slowest: int) -> None:
    random = Random(7)
    found = [trips_after(random, rate, healthy=2_000) or 0 for _ in range(800)]
    assert median(found) == pytest.approx(typical, rel=0.12, abs=1)
    assert quantiles(found, n=20)[-1] == pytest.approx(slowest, rel=0.15, abs=1)


def test_false_trips_at_exactly_the_promise_are_rarer_than_one_in_c() -> None:
    """The promise allows 20 in 200 streams of 100,000; about one in 300 streams trips."""
    random = Random(11)
    found = [trips_after(random, P0, limit=100_000) for _ in range(200)]
    assert sum(trip is not None for trip in found) <= 2


def bursts_trip(seed: int, cap: bool) -> bool:
    """Half the tolerated rate, in bursts of 10 on average, each burst of one key; the e-CUSUM alone."""
    random = Random(seed)
    kept = OrderedCusum(Ecusum(P0), None)
    ticket = 0
    while (ticket := ticket + int(random.expovariate(P0 / 2 / 10)) + 1) < 20_000:
        length = 1 + int(log(1 - random.random()) / log(0.9))
        for charge in range(length):
            ticket += 1
            if kept.hit(ticket, capped=cap and charge >= 2):
                return True
    return False


def test_bursts_of_one_key_trip_healthy_canaries_only_without_the_cap() -> None:
    assert sum(bursts_trip(seed, cap=False) for seed in range(STREAMS)) > STREAMS * 0.9
    assert sum(bursts_trip(seed, cap=True) for seed in range(STREAMS)) == 0


def test_one_poisoned_caller_among_many_never_flips_a_route() -> None:
    """As above through the detector, fuse and all: the bursts are spread over other callers' good answers."""
    for seed in range(STREAMS):
        random = Random(seed)
        guard = Detector(objectives(max_rate=P0))
        burst = 0
        for _ in range(20_000):
            ticket = guard.dispatched()
            if burst and random.random() < 0.1:
                burst -= 1
                assert guard.charged(ticket, 0, key_hash=7) is None
            elif not burst and random.random() < P0 / 2 / 10:
                burst = 1 + int(log(1 - random.random()) / log(0.9))


# Errors that are known earlier, or later, than the answers beside them


class Event(NamedTuple):
    at_s: float
    kind: Literal["dispatched", "failed", "charged", "answered"]
    attempt: int


Regime = Literal["retry_stable", "pass"]


def traffic(
    seed: int,
    rate: float,
    per_s: int,
    regime: Regime,
    seconds: float = 6,
    answer_s: tuple[float, float] = (1, 2),
    fail_s: tuple[float, float] = (0.001, 0.003),
) -> list[Event]:
    """Everything that happens to a canary whose share has just risen from zero, until the last answer is in."""
    random = Random(seed)
    events = []
    for attempt in range(int(per_s * seconds)):
        sent_s = attempt / per_s
        events.append(Event(sent_s, "dispatched", attempt))
        if random.random() >= rate:
            events.append(Event(sent_s + random.uniform(*answer_s), "answered", attempt))
            continue
        failed_s = sent_s + random.uniform(*fail_s)
        if regime == "retry_stable":
            events.append(Event(failed_s, "failed", attempt))
            failed_s += random.uniform(*answer_s)
        events.append(Event(failed_s, "charged", attempt))
    return sorted(events)


def first_trip(events: list[Event]) -> tuple[float, Trip] | None:
    guard = Detector(objectives(max_rate=P0))
    for at_s, kind, attempt in events:
        trip = None
        if kind == "dispatched":
            assert guard.dispatched() == attempt
        elif kind == "failed":
            guard.set_aside(attempt, 0)
        elif kind == "charged":
            trip = guard.charged(attempt, 0, None)
        else:
            guard.answered(attempt, 1.0, 0, None)
        if trip:
            return at_s, trip
    return None


def trips_by_arrival(events: list[Event], delay_s: float) -> tuple[bool, bool]:
    """Fuse and e-CUSUM fed as answers arrive, with a start-up delay of failures before the e-CUSUM."""
    test = Ecusum(P0)
    ended = [event for event in events if event.kind in {"charged", "answered"}]
    run = longest = 0
    for event in ended:
        run = run + 1 if event.kind == "charged" else 0
        longest = max(run, longest)
    sent_s = {event.attempt: event.at_s for event in events if event.kind == "dispatched"}
    delayed = sorted(
        (max(at_s, sent_s[i] + delay_s) if kind == "charged" and at_s < delay_s else at_s, kind)
        for at_s, kind, i in ended
    )
    odds, most = test.start, 1.0
    for _, kind in delayed:
        odds = test.step(odds, bad=kind == "charged")
        most = max(most, test.evidence(odds))
    return longest >= fuse_length(P0), most >= test.c


@pytest.mark.parametrize("regime", ["retry_stable", "pass"])
@pytest.mark.parametrize("per_s", [500, 1_000])
def test_early_errors_beside_slow_answers_do_not_flip_a_healthy_canary(regime: Regime, per_s: int) -> None:
    streams = [traffic(seed, P0 / 2, per_s, regime, seconds=3) for seed in range(STREAMS)]
    assert [first_trip(events) for events in streams] == [None] * STREAMS


def test_fed_as_they_arrive_early_errors_flip_most_healthy_canaries_delayed_or_not() -> None:
    streams = [traffic(seed, P0 / 2, 1_000, "pass", seconds=2) for seed in range(20)]
    for delay_s in (0.0, 0.25):
        found = [trips_by_arrival(events, delay_s) for events in streams]
        assert sum(fuse for fuse, _ in found) > 10
        assert sum(cusum for _, cusum in found) > 12


def test_late_timeouts_after_the_traffic_stops_do_not_flip_a_healthy_canary() -> None:
    streams = [
        traffic(seed, P0 / 2, 1_000, "pass", seconds=3, answer_s=(0.005, 0.02), fail_s=(2, 2.1))
        for seed in range(STREAMS)
    ]
    assert [first_trip(events) for events in streams] == [None] * STREAMS
    assert sum(trips_by_arrival(events, 0)[0] for events in streams[:10]) > 7


@pytest.mark.parametrize("regime", ["retry_stable", "pass"])
@pytest.mark.parametrize("per_s", [5, 50, 1_000])
def test_a_dead_canary_trips_within_five_charges(regime: Regime, per_s: int) -> None:
    for seed in range(20):
        found = first_trip(traffic(seed, 1.0, per_s, regime, seconds=2))
        assert found is not None
        assert found[1].charged <= 5


@pytest.mark.parametrize("per_s", [5, 50, 1_000])
def test_a_canary_that_fails_half_the_time_trips_while_its_good_answers_are_still_out(per_s: int) -> None:
    found = [first_trip(traffic(seed, 0.5, per_s, "pass")) for seed in range(20)]
    assert all(trip is not None for trip in found)
    assert median(at_s for at_s, _ in filter(None, found)) <= 12 / per_s
    assert max(trip.charged for _, trip in filter(None, found)) <= 12


def test_two_healthy_arms_never_flip() -> None:
    """A/A: errors 0.2 %, lognormal latencies with p99 32 ms against a p99 of 50 ms."""
    for seed in (1, 2):
        random = Random(seed)
        guard = Detector(objectives(max_rate=P0, p50_ms=20, p95_ms=35, p99_ms=50))
        for _ in range(100_000):
            ticket = guard.dispatched()
            if random.random() < 0.002:
                assert guard.charged(ticket, 0, None) is None
            else:
                assert guard.answered(ticket, random.lognormvariate(log(0.01), 0.5), 0, None) is None


def test_a_canary_twice_as_slow_as_its_promise_trips() -> None:
    random = Random(3)
    guard = Detector(objectives(p99_ms=50))
    trips = [guard.answered(guard.dispatched(), random.lognormvariate(log(0.04), 0.5), 0, None) for _ in range(500)]
    assert any(trips)


# Several sources that know their own order, and slots of 0.1 s for the order over all


def trip_over(sources: int, events: list[Event], *, seed: int = 0) -> tuple[float, Trip] | None:
    """When the merged fuse trips, each attempt at one of the sources, news every 0.1 s at a time of its own."""
    random = Random(f"sources {seed}")
    found = [Detector((), fuse_p0=0.5) for _ in range(sources)]  # their own fuses are too long to matter
    offsets_s = [random.random() * SLOT_S for _ in found]
    merged = MergedDetector(())
    placed: dict[int, tuple[Detector, int]] = {}
    told = [0] * sources
    for at_s, kind, attempt in events:
        for source, offset_s in enumerate(offsets_s):
            while told[source] * SLOT_S + offset_s <= at_s:
                told[source] += 1
                slots = [Slot(n, new, len(hits), len(hits)) for n, new, hits in found[source].take_run()]
                if (trip := merged.flush({}, slots)) is not None:
                    return told[source] * SLOT_S, trip
        if kind == "dispatched":
            detector = random.choice(found)
            placed[attempt] = detector, detector.dispatched(at_s)
        elif kind == "charged":
            detector, ticket = placed[attempt]
            detector.charged(ticket, 0, None)
    return None


def one_bad_key(seed: int, bad_per_s: float, good_per_s: float, late_s: float, seconds: float = 6) -> Trip | None:
    """One key fails on a source of its own, another source answers; each tells every 0.1 s, and up to so much late."""
    random = Random(f"one key {seed}")
    sources = [Detector((), is_alone=False) for _ in range(2)]
    per_s, cap, merged = (bad_per_s, good_per_s), KeyCap(), MergedDetector(())
    sent_s = [random.random() / (per_s[0] or 1), random.random() / (per_s[1] or 1e-9)]
    words: list[tuple[float, list[SlotNews]]] = []
    told_s = [0.0, 0.0]
    next_s = [random.random() * SLOT_S for _ in sources]
    for step in range(int(seconds / 0.01)):
        now_s = step * 0.01
        for index, source in enumerate(sources):
            while per_s[index] and sent_s[index] <= now_s:
                ticket = source.dispatched(sent_s[index])
                if index == 0:
                    assert source.charged(ticket, 0, 7) is None
                sent_s[index] += 1 / per_s[index]
            if next_s[index] <= now_s:  # words of one source stay in their order
                told_s[index] = max(told_s[index], now_s + random.random() * late_s)
                words.append((told_s[index], source.take_run()))
                next_s[index] += SLOT_S * random.uniform(1, 1.3)
        if step % 10 == 0:
            come = [news for at_s, found in words if at_s <= now_s for news in found]
            words = [word for word in words if word[0] > now_s]
            slots = [Slot(n, new, len(keys), sum(not cap.is_spent(key) for key in keys)) for n, new, keys in come]
            if (trip := merged.flush({}, slots)) is not None:
                return trip
    return None


@pytest.mark.parametrize("late_s", [0.0, 0.1])
@pytest.mark.parametrize("bad_per_s", [20, 100, 1_000])
def test_one_bad_key_alone_on_a_source_is_held_while_another_answers(bad_per_s: int, late_s: float) -> None:
    for seed in range(30):
        assert one_bad_key(seed, bad_per_s, 40, late_s) is None


@pytest.mark.parametrize("bad_per_s", [20, 1_000])
def test_one_bad_key_that_is_all_there_is_trips(bad_per_s: int) -> None:
    trip = one_bad_key(0, bad_per_s, 0, 0.1, seconds=1.2)
    assert trip is not None
    assert trip.objective == "fuse"


@pytest.mark.parametrize("sources", [2, 10])
@pytest.mark.parametrize(("per_s", "rate"), [(20, 0.05), (200, 0.01), (1_000, P0 / 2)])
def test_over_sources_early_errors_beside_slow_answers_are_no_run(sources: int, per_s: int, rate: float) -> None:
    for seed in range(6):
        assert trip_over(sources, traffic(seed, rate, per_s, "pass"), seed=seed) is None


@pytest.mark.parametrize("sources", [2, 10])
def test_over_sources_late_timeouts_after_the_traffic_stops_are_no_run(sources: int) -> None:
    for seed in range(6):
        events = traffic(seed, P0, 500, "pass", seconds=3, answer_s=(0.005, 0.02), fail_s=(2, 2.1))
        assert trip_over(sources, events, seed=seed) is None


@pytest.mark.parametrize("sources", [1, 3, 10])
@pytest.mark.parametrize("per_s", [5, 50, 500])
@pytest.mark.parametrize("fail_s", [0.001, 0.03, 0.3, 2.0])
def test_over_sources_a_dead_canary_trips_soon_after_five_have_failed(sources: int, per_s: int, fail_s: float) -> None:
    events = traffic(1, 1.0, per_s, "pass", seconds=4, fail_s=(fail_s, 1.2 * fail_s))
    found = trip_over(sources, events)
    assert found is not None
    at_s, trip = found
    assert at_s <= 5 / per_s + 1.2 * fail_s + 0.4
    assert trip.charged <= trip.attempts


def test_a_dead_canary_trips_over_ten_sources_as_fast_as_on_one() -> None:
    sources = [Detector(()) for _ in range(10)]
    merged = MergedDetector(())
    trips = []
    for slot, source in enumerate(sources[:5]):
        source.charged(source.dispatched(slot * SLOT_S), 0, None)
        ((number, attempts, hits),) = source.take_run()
        trips.append(merged.flush({}, [Slot(number, attempts, len(hits), len(hits))]))
    assert trips[:4] == [None] * 4
    assert trips[4] is not None
    assert trips[4].sentence() == "5 attempts in a row failed (5 of 5 in all)"
