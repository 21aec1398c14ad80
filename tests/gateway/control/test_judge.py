"""What all workers saw together: trips that no worker has enough evidence for, and what holds them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from gateway.control.judge import Judge
from gateway.control.messages import Count, Counted, Lowered
from routing.analysis.guard import Detector
from routing.analysis.merged import SETTLING
from routing.analysis.objective import objectives
from routing.analysis.slots import SLOT_S, SLOTS_MAX
from routing.codec import encode
from routing.document import RouteDocument
from tests.builders import document

SLO = {"errors": {"max_rate": 0.01}}


class Bench:
    """A judge that follows one document."""

    def __init__(self, **parts: Any) -> None:
        self.document = document(**{"slo": SLO} | parts)
        self.lowered: list[Lowered] = []
        self.judge = Judge(self.lowered.append)
        self.follow(self.document)

    def follow(self, current: RouteDocument) -> None:
        self.judge.follow("credit", encode(current))

    def hear(self, worker: int, attempts: int, hits: list[int | None], *, version: str = "2", **parts: Any) -> None:
        said = {"epoch": self.document.epoch[version], "is_stable": version == "1", "stable_is_ready": True} | parts
        said.setdefault("deltas", {"errors": (attempts, hits)})
        self.judge.hear(worker, Counted((Count("credit", version, **said),)))

    def hear_run(self, worker: int, attempts: int, failed: int, *, slot: int = 1, key: int | None = None) -> None:
        self.hear(worker, 0, [], deltas={}, slots=((slot, attempts, [key] * failed),))

    def flush(self, rounds: int, hits: list[int | None], **parts: Any) -> None:
        for _ in range(rounds):
            for worker in range(4):
                self.hear(worker, 10, hits, **parts)
            self.judge.step()


def played(play: Callable[[], None]) -> None:
    async def scenario() -> None:
        play()

    asyncio.run(scenario())


def test_four_workers_find_out_what_one_cannot() -> None:
    def play() -> None:
        bench = Bench()
        alone = Detector(objectives(max_rate=0.01))
        for _ in range(8):
            tickets = [alone.dispatched() for _ in range(10)]
            assert alone.charged(tickets[4], 0, None) is None
        bench.flush(8, [None])
        assert [(low.model, low.version, low.evidence["merged"]) for low in bench.lowered] == [("credit", "2", True)]
        assert bench.lowered[0].reason.startswith("errors: ")
        assert bench.lowered[0].evidence["objective"] == "errors"
        bench.flush(8, [None])
        assert len(bench.lowered) == 1

    played(play)


def test_a_run_of_failures_is_one_wherever_they_were_seen() -> None:
    def play() -> None:
        bench = Bench(slo=None)
        for worker in range(4):
            bench.hear_run(worker, 1, 1)
            bench.judge.step()
        assert not bench.lowered
        bench.hear_run(0, 1, 1)
        bench.judge.step()
        assert [low.reason for low in bench.lowered] == [
            "fuse: 5 attempts in a row failed (5 of 5 in all), over 4 workers"
        ]
        assert bench.lowered[0].evidence["guard"]["fuse"] == {"p0": 0.01, "run": 5, "length": 5, "charged": 5}

    played(play)


def test_one_answer_among_the_failures_of_all_ends_their_run() -> None:
    def play() -> None:
        bench = Bench(slo=None)
        for slot in range(20):
            for worker in range(4):
                bench.hear_run(worker, 1, 1, slot=slot)
            bench.hear_run(0, 1, 0, slot=slot)
            bench.judge.step()
        assert not bench.lowered

    played(play)


def test_attempts_in_flight_at_a_step_hide_no_run() -> None:
    def play() -> None:
        bench = Bench(slo=None)
        for slot in range(1, 6):
            for worker in range(2):
                bench.hear_run(worker, 2, 1, slot=slot)
                bench.hear_run(worker, 0, 1, slot=slot - 1)  # of slot 0 nothing else is known
            bench.judge.step()
        assert [low.reason for low in bench.lowered] == [
            "fuse: 8 attempts in a row failed (10 of 12 in all), over 2 workers"
        ]

    played(play)


def test_one_key_alone_is_left_to_who_may_know_of_others() -> None:
    def play() -> None:
        bench, last = Bench(slo=None), Bench(slo=None)
        bench.judge = Judge(bench.lowered.append, is_last=lambda: False)
        bench.follow(bench.document)
        for one in (bench, last):
            one.hear_run(0, 20, 20, key=7)
            for _ in range(SETTLING):
                one.judge.step()
            assert not one.lowered
            one.judge.step()
        assert not bench.lowered
        assert len(last.lowered) == 1, "nobody has told of an answer meanwhile"
        for key in (8, 9, 10):
            bench.hear_run(1, 1, 1, slot=2, key=key)
        bench.judge.step()
        assert len(bench.lowered) == 1, "three keys and two charges of the first are five"

    played(play)


def test_one_key_that_fails_is_held_while_others_are_answered_and_told_of_late() -> None:
    def play() -> None:
        bench = Bench(slo=None)
        for slot in range(1, 40):
            bench.hear_run(0, 20, 20, slot=slot, key=7)
            if slot >= SETTLING:
                bench.hear_run(1, 1, 0, slot=slot - SETTLING + 1)
            bench.judge.step()
        assert not bench.lowered
        for _ in range(2 * SETTLING):  # the other falls silent, nothing more comes of either
            bench.judge.step()
        assert len(bench.lowered) == 1

    played(play)


def test_a_run_that_has_to_settle_is_looked_at_again_without_news() -> None:
    async def scenario() -> None:
        bench = Bench(slo=None)
        bench.hear_run(0, 20, 20, key=7)
        async with asyncio.timeout(5):
            while not bench.lowered:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_run_that_stable_shares_keeps_the_weights() -> None:
    def play() -> None:
        bench = Bench(slo=None)
        bench.hear(0, 10, [None] * 10, version="1")
        for worker in range(5):
            bench.hear_run(worker, 1, 1)
        bench.judge.step()
        assert not bench.lowered
        assert "stable breaks errors too" in bench.judge.status("credit")["2"]["alarm"]

    played(play)


def test_another_judge_goes_on_with_the_run() -> None:
    def play() -> None:
        bench, other = Bench(slo=None), Bench(slo=None)
        for worker in range(4):
            bench.hear_run(worker, 1, 1)
        bench.judge.step()
        other.judge.restore("credit", json.loads(json.dumps(bench.judge.state("credit"))))
        other.hear_run(1, 1, 1)
        other.judge.step()
        assert [low.evidence["guard"]["fuse"]["charged"] for low in other.lowered] == [5]

    played(play)


def test_a_healthy_canary_is_left_alone() -> None:
    def play() -> None:
        bench = Bench()
        for _ in range(200):
            bench.flush(1, [])
            bench.hear(0, 100, [None])
        assert not bench.lowered

    played(play)


def test_two_hits_of_one_key_count_wherever_they_were_seen() -> None:
    def play() -> None:
        bench = Bench()
        bench.flush(50, [7])
        assert not bench.lowered
        assert bench.judge.status("credit")["2"]["evidence"]["errors"]["charged"] == 2

    played(play)


def test_a_fault_that_stable_shares_keeps_the_weights() -> None:
    def play() -> None:
        bench = Bench()
        for _ in range(12):
            for worker in range(4):
                bench.hear(worker, 10, [None], version="1")
            bench.flush(1, [None])
        assert not bench.lowered
        assert "stable breaks errors too" in bench.judge.status("credit")["2"]["alarm"]

    played(play)


def test_a_stable_that_is_not_ready_keeps_the_weights_until_its_worker_is_gone() -> None:
    def play() -> None:
        bench = Bench()
        bench.hear(3, 1, [], stable_is_ready=False)
        for _ in range(12):
            for worker in range(3):
                bench.hear(worker, 10, [None])
            bench.judge.step()
        assert not bench.lowered
        assert "stable is not ready" in bench.judge.status("credit")["2"]["alarm"]
        bench.judge.left(3)
        bench.flush(12, [None])
        assert len(bench.lowered) == 1

    played(play)


def test_a_guard_that_does_not_act_reports() -> None:
    def play() -> None:
        bench = Bench(enforce=False)
        bench.flush(20, [None])
        assert not bench.lowered
        assert "attempts failed" in bench.judge.status("credit")["2"]["would_have_flipped"]

    played(play)


def test_evidence_of_another_epoch_is_nobodys() -> None:
    def play() -> None:
        bench = Bench()
        bench.flush(20, [None], epoch=99)
        assert not bench.lowered
        assert not bench.judge.status("credit")

    played(play)


def test_a_detector_tells_each_hit_and_each_attempt_once() -> None:
    detector = Detector(objectives(max_rate=0.01, p99_ms=50))
    first, second, third = (detector.dispatched(4.0) for _ in range(3))
    detector.set_aside(first, 0)
    assert detector.take() == {"errors": (2, []), "latency_p99": (2, [])}
    assert detector.take_run() == [(40, 3, [])]
    detector.charged(first, 0, 5)
    mask, _ = detector.sweep(second, 0.06, 0, None)
    assert mask
    assert detector.take() == {"errors": (1, [5]), "latency_p99": (0, [None])}
    assert detector.take_run() == [(40, 0, [5])]
    detector.set_aside(third, 0)
    assert detector.take() == {}
    assert detector.take_run() == []
    detector.dispatched(4.1)
    assert detector.take() == {}, "one that was set aside, or failed, after it was told is made up for"


def test_a_failure_is_told_of_the_slot_of_its_dispatch_as_long_as_that_is_known() -> None:
    detector = Detector((), fuse_p0=0.5)
    waiting = []
    for slot in range(SLOTS_MAX + 2):
        waiting.append(detector.dispatched((slot + 0.5) * SLOT_S))
        assert detector.take_run() == [(slot, 1, [])]
    for ticket in waiting[:3]:
        detector.charged(ticket, 0, ticket)
    detector.charged(waiting[0], 0, 0)
    assert detector.take_run() == [(2, 0, [2])], "the first two slots are forgotten"
    same = [detector.dispatched(50.0), detector.dispatched(50.01)]
    assert detector.take_run() == [(500, 2, [])]
    same.append(detector.dispatched(50.09))
    later = [detector.dispatched(50.11), detector.dispatched(50.62), detector.dispatched(50.55)]
    detector.charged(same[0], 0, 5)
    detector.charged(same[2], 0, None)
    detector.charged(later[0], 0, None)
    assert detector.take_run() == [(500, 1, [5, None]), (501, 1, [None]), (506, 2, [])]


def test_slots_follow_each_other_however_their_borders_are_rounded() -> None:
    detector = Detector((), fuse_p0=0.5)
    for tenth in range(20_000, 20_500):
        detector.dispatched(tenth / 10)
        detector.dispatched((tenth + 1) * SLOT_S)
    told = detector.take_run()
    numbers = [number for number, _, _ in told]
    assert numbers == sorted(set(numbers))
    assert len(told) == SLOTS_MAX
    assert sum(attempts for _, attempts, _ in told) <= 2 * SLOTS_MAX + 1, "what was not told in time is let go"
