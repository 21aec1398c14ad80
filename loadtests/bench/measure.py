"""Runs in turn, A B A B, and what their medians say."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

from loadtests.bench.cpu import busy_ns, cpu_ns, memory_bytes, own_ns, tree
from loadtests.bench.machine import Lab
from loadtests.bench.target import Target

FOREIGN_CORES = 0.15  # more of other people's work during a run, and it is repeated
FULL_CORE = 0.85  # below this share the load generator was the limit


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run.

    Attributes:
        ok: Requests answered with 200; nothing else counts.
        cpu_ns: Of all threads and processes of the contender.
        foreign_cores: What the machine did beside the bench, in cores.
    """

    contender: str
    requests: int
    ok: int
    seconds: float
    p50_us: float
    p99_us: float
    cpu_ns: int
    foreign_cores: float
    rss_bytes: int
    largest_rss_bytes: int

    @property
    def cpu_us(self) -> float:
        """CPU time for one request."""
        return self.cpu_ns / 1000 / self.ok if self.ok else float("nan")

    @property
    def busy_share(self) -> float:
        """Of one core."""
        return self.cpu_ns / 1e9 / self.seconds

    @property
    def disturbed(self) -> bool:
        """Whether other work took more than it may."""
        return self.foreign_cores > FOREIGN_CORES


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians over a contender's runs.

    Attributes:
        rps_per_core: What a full core allows, ``1e6 / cpu_us``.
        disturbed: Runs among them with more than ``FOREIGN_CORES`` of other work.
    """

    contender: str
    version: str
    note: str
    runs: int
    disturbed: int
    failed: int
    cpu_us: float
    rps: float
    rps_per_core: float
    busy_share: float
    p50_us: float
    p99_us: float
    rss_bytes: float
    largest_rss_bytes: float


def measure(target: Target, seconds: float) -> Run:
    """One run."""
    before = (cpu_ns(tree(target.pid)), own_ns(), busy_ns(), time.monotonic_ns())
    load = target.drive(seconds)
    processes = tree(target.pid)
    after = (cpu_ns(processes), own_ns(), busy_ns(), time.monotonic_ns())
    cpu, own, busy, wall = (b - a for a, b in zip(before, after, strict=True))
    memory = memory_bytes(processes)
    return Run(
        target.name, load.requests, load.ok, load.seconds, load.p50_us, load.p99_us, cpu,
        max(0.0, (busy - own) / wall), sum(memory), memory[0] if memory else 0,
    )  # fmt: skip


def interleave(
    lab: Lab, targets: Sequence[Target], watch: Callable[[Run], None], run: Callable[[Target, float], Run] = measure
) -> list[Run]:
    """``rounds`` runs of each in turn; then ``repeats`` rounds at most of those who lack undisturbed runs."""
    runs: list[Run] = []
    calm = dict.fromkeys((target.name for target in targets), 0)
    for target in targets:
        signal_all(target, signal.SIGSTOP)
    for number in range(lab.rounds + lab.repeats):
        for target in targets:
            if number >= lab.rounds <= calm[target.name]:
                continue
            signal_all(target, signal.SIGCONT)
            target.drive(lab.warmup_s)
            done = run(target, lab.seconds)
            signal_all(target, signal.SIGSTOP)
            calm[target.name] += not done.disturbed
            runs.append(done)
            watch(done)
    for target in targets:
        signal_all(target, signal.SIGCONT)
    return runs


def signal_all(target: Target, number: signal.Signals) -> None:
    """Stop or go on with a contender that rests while others are measured."""
    if target.rests:
        for pid in tree(target.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def calmest(runs: Sequence[Run], rounds: int) -> list[Run]:
    """The runs that count: as many as were wanted, those with the least foreign work."""
    return sorted(runs, key=lambda run: run.foreign_cores)[:rounds]


def summarise(target: Target, runs: Sequence[Run], rounds: int) -> Summary:
    """Medians of a contender's calmest runs."""
    chosen = calmest([run for run in runs if run.contender == target.name], rounds)
    cpu_us = median(run.cpu_us for run in chosen)
    return Summary(
        contender=target.name,
        version=target.version,
        note=target.note,
        runs=len(chosen),
        disturbed=sum(run.disturbed for run in chosen),
        failed=sum(run.requests - run.ok for run in chosen),
        cpu_us=cpu_us,
        rps=median(run.ok / run.seconds for run in chosen),
        rps_per_core=1e6 / cpu_us if cpu_us else float("nan"),
        busy_share=median(run.busy_share for run in chosen),
        p50_us=median(run.p50_us for run in chosen),
        p99_us=median(run.p99_us for run in chosen),
        rss_bytes=median(run.rss_bytes for run in chosen),
        largest_rss_bytes=median(run.largest_rss_bytes for run in chosen),
    )
