"""Epochs come and go; what is exposed only grows, with a route's own thresholds among the edges."""

from gateway.metrics.block import Block, Reader
from gateway.metrics.ledger import ATTEMPT_EDGES_S, Ledger
from gateway.metrics.totals import Blocks, Buckets, Samples
from gateway.runtime.arms import Evidence
from routing.analysis.objective import objectives
from routing.analysis.outcome import Kind


class Worker:
    def __init__(self, cells: int = 1000) -> None:
        memory = bytearray(Block.bytes_for(cells=cells, directory_bytes=20_000))
        self.ledger = Ledger(Block(memory, cells=cells, directory_bytes=20_000))
        self.reader = Reader(memory)

    def evidence(self, epoch: int, p99_ms: float | None = None) -> Evidence:
        promises = objectives(p99_ms=p99_ms)
        thresholds_s = [o.threshold_s for o in promises if o.threshold_s is not None]
        return Evidence(epoch, promises, self.ledger.version("credit", "2", thresholds_s))

    def samples(self) -> Samples:
        return Blocks([self.reader]).sums().samples()

    def drawn(self) -> object:
        return self.samples()["turnout_routed_total"].get(("credit", "2", "drawn"))

    def seconds(self) -> Buckets:
        found = self.samples()["turnout_attempt_seconds"]["credit", "2"]
        assert isinstance(found, Buckets)
        return found


def test_a_new_epoch_begins_at_zero_and_the_metrics_go_on() -> None:
    worker = Worker()
    old = worker.evidence(1)
    old.counters.drawn += 3
    old.counters.in_flight += 2
    old.counters.ended(Kind.OK)
    new = worker.evidence(2)
    assert (new.counters.drawn, worker.drawn()) == (0, 3)
    new.counters.drawn += 1
    old.counters.ended(Kind.TIMEOUT)  # a late answer belongs to the epoch that sent it
    assert new.counters.as_json()["outcomes"] == {}
    assert old.counters.as_json()["outcomes"] == {"ok": 1, "timeout": 1}
    assert worker.drawn() == 4
    assert worker.samples()["turnout_attempts_total"] == {("credit", "2", "ok"): 1, ("credit", "2", "timeout"): 1}


def test_rows_of_past_epochs_are_used_again_and_keep_what_they_counted() -> None:
    worker = Worker(cells=100)
    for epoch in range(50):
        evidence = worker.evidence(epoch)
        evidence.counters.drawn += 2
        assert evidence.counters.drawn == 2
        del evidence
        assert worker.drawn() == 2 * (epoch + 1)
    assert worker.reader.refused == 0


def test_where_a_block_is_full_the_worker_still_knows() -> None:
    worker = Worker(cells=10)
    evidence = worker.evidence(1)
    evidence.counters.drawn += 1
    evidence.latencies_s.append(0.01)
    evidence.settle()
    assert (evidence.counters.drawn, worker.samples()) == (1, {})
    assert worker.reader.refused == 4


def test_the_thresholds_of_a_route_are_edges_exactly() -> None:
    worker = Worker()
    evidence = worker.evidence(1, p99_ms=37.5)
    for seconds in (0.0375, 0.03750001, 0.001, 40.0):
        evidence.latencies_s.append(seconds)
        evidence.settle()
    found = worker.seconds()
    assert found.edges_s == tuple(sorted({*ATTEMPT_EDGES_S, 0.0375}))
    at = dict(zip(found.edges_s, found.counts, strict=False))
    assert (at[0.001], at[0.025], at[0.0375], at[0.05], found.counts[-1]) == (1, 1, 2, 3, 4)


def test_no_bucket_goes_back_when_a_threshold_changes() -> None:
    worker = Worker()
    kept = []
    before: dict[float, int] = {}
    for epoch, p99_ms in enumerate((37.5, 60.0, None, 37.5, 20.0)):
        evidence = worker.evidence(epoch, p99_ms=p99_ms)
        kept.append(evidence)
        for seconds in (0.02, 0.035, 0.059, 0.07):
            evidence.latencies_s.append(seconds)
            evidence.settle()
        found = worker.seconds()
        assert p99_ms is None or p99_ms / 1000 in found.edges_s
        assert list(found.counts) == sorted(found.counts)
        at = dict(zip(found.edges_s, found.counts, strict=False))
        assert all(at[edge] >= count for edge, count in before.items() if edge in at)
        assert found.counts[-1] == 4 * (epoch + 1)
        before = {**before, **at}
