"""Counts that outlive their writer, and what one of them costs."""

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.metrics.block import BadBlock, Block, Entry, Reader, shared_memory
from gateway.metrics.ledger import Ledger, Timing
from gateway.metrics.totals import Blocks, Buckets, Samples, across
from gateway.runtime.arms import DRAWN, Counters

ROOT = Path(__file__).parents[3]
WRITER = """
import mmap, sys
from gateway.metrics.block import Block, Entry
block = Block(mmap.mmap(int(sys.argv[1]), Block.bytes_for()))
kept = [block.claim([Entry("turnout_requests_total", ("credit", "1", "stable", "200"))])]
print("writing", flush=True)
for n in range(1 << 40):
    kept[0].counts[0] += 1
    if n % 1000 == 0 and n < 500_000:
        kept.append(block.claim([Entry("turnout_flips_total", ("m%d" % n, "1", "errors"))]))
        kept[-1].counts[0] = n
"""


def block(cells: int = 100, directory_bytes: int = 10_000) -> tuple[Block, Reader]:
    memory = bytearray(Block.bytes_for(cells=cells, directory_bytes=directory_bytes))
    return Block(memory, cells=cells, directory_bytes=directory_bytes), Reader(memory)


def test_a_block_says_what_its_cells_count() -> None:
    writer, reader = block()
    row = writer.claim([Entry("a_total", ("x",), ("one", "two")), Entry("b_seconds", ("y",), edges_s=(0.1, 0.5))])
    row.counts[1] += 7
    timing = Timing(row.part(2, 6), (0.1, 0.5))
    for seconds in (0.1, 0.2, 3.0):
        timing.observe(seconds)
    (first, counts, _), (second, buckets, sum_s) = reader.read()
    assert (first.metric, first.labels, first.each, list(counts)) == ("a_total", ("x",), ("one", "two"), [0, 7])
    assert (second.edges_s, list(buckets)) == ((0.1, 0.5), [1, 1, 1])
    assert sum_s == pytest.approx(3.3)


def test_a_full_block_is_counted_and_stops_nobody() -> None:
    writer, reader = block(cells=3)
    rows = [writer.claim([Entry("a_total", (str(n),))]) for n in range(5)]
    for row in rows:
        row.counts[0] += 1
    assert [entry.labels for entry, _, _ in reader.read()] == [("0",), ("1",), ("2",)]
    assert reader.refused == 2
    writer, reader = block(directory_bytes=60)
    for n in range(3):
        writer.claim([Entry("a_total", (str(n),))]).counts[0] += 1
    assert (len(reader.read()), reader.refused) == (2, 1)


def test_other_memory_is_no_block() -> None:
    for memory in (bytearray(8), bytearray(1000), bytearray(b"turnout\x00" + bytes(1000))):
        with pytest.raises(BadBlock):
            Reader(memory)
    whole = bytearray(Block.bytes_for(cells=10, directory_bytes=100))
    Block(whole, cells=10, directory_bytes=100)
    with pytest.raises(BadBlock):
        Reader(whole[:-8])


def test_a_block_is_read_while_another_process_writes_it_and_after_it_was_killed() -> None:
    descriptor = shared_memory(Block.bytes_for())
    command = [sys.executable, "-c", WRITER, str(descriptor)]
    with subprocess.Popen(
        command, pass_fds=[descriptor], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        reader = Reader(mmap.mmap(descriptor, Block.bytes_for()))
        last, series = 0, 0
        while series < 50:
            found = reader.read()
            assert found[0][1][0] >= last
            last, series = found[0][1][0], len(found)
            for entry, _, _ in found[1:]:
                assert entry.metric == "turnout_flips_total"
        process.send_signal(signal.SIGKILL)
    counted = reader.read()[0][1][0]
    assert counted >= last > 0
    second, of_second = block()
    second.claim([Entry("turnout_requests_total", ("credit", "1", "stable", "200"))]).counts[0] = 5
    samples = Blocks([reader, of_second]).sums().samples()
    assert samples["turnout_requests_total"] == {("credit", "1", "stable", "200"): counted + 5}


def test_counting_costs_next_to_nothing() -> None:
    writer, _ = block(cells=1000)
    ledger = Ledger(writer)
    row = ledger.version("credit", "1")
    counters, timing = Counters(row), row.seconds
    times = 50_000

    def cost_ns(statement: str) -> float:
        names = {"c": counters, "counts": counters.counts, "t": timing, "ledger": ledger, "DRAWN": DRAWN}
        source = f"def work(c, counts, t, ledger, DRAWN):\n for _ in range({times}):\n  {statement}"
        space: dict[str, object] = {}
        exec(source, space)
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter_ns()
            space["work"](**names)  # type: ignore[operator]
            best = min(best, (time.perf_counter_ns() - begin) / times)
        return best

    costs = {
        "counts[DRAWN] += 1": cost_ns("counts[DRAWN] += 1"),
        "counters.drawn += 1": cost_ns("c.drawn += 1"),
        "timing.observe": cost_ns("t.observe(0.0031)"),
        "ledger.request": cost_ns("ledger.request('credit', '1', 'stable', 200)"),
    }
    print(", ".join(f"{what} {ns:.0f} ns" for what, ns in costs.items()))
    assert costs["counts[DRAWN] += 1"] < 1_000
    assert sum(costs.values()) < 20_000


def test_what_dead_writers_counted_stays_and_their_memory_goes() -> None:
    blocks = Blocks()
    for count in (3, 4):
        writer, reader = block()
        blocks.add(reader)
        row = writer.claim([Entry("a_total", ("x",)), Entry("b_seconds", ("x",), edges_s=(0.1,))])
        row.counts[0] += count
        Timing(row.part(1, 4), (0.1,)).observe(0.05)
        before = blocks.sums().samples()
        blocks.retire(reader)
        assert blocks.sums().samples() == before
        assert not blocks._state[1]
    samples = blocks.sums().samples()
    assert samples["a_total"] == {("x",): 7}
    assert samples["b_seconds"]["x",] == Buckets((0.1,), (2, 2), 0.1)


def test_gauges_of_workers_become_one_each_in_its_own_way() -> None:
    one: Samples = {
        "turnout_inflight": {(): 2},
        "turnout_loop_lag_seconds": {(): 0.1},
        "turnout_version_ready": {(): 1},
    }
    two: Samples = {
        "turnout_inflight": {(): 3},
        "turnout_loop_lag_seconds": {(): 0.3},
        "turnout_version_ready": {(): 0},
    }
    assert across([one, two]) == {
        "turnout_inflight": {(): 5},
        "turnout_loop_lag_seconds": {(): 0.3},
        "turnout_version_ready": {(): 0},
    }
