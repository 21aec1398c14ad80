"""Runs, targets and summaries with defaults."""

from loadtests.bench.measure import Run, Summary, summarise
from loadtests.bench.target import Load, Target


def a_run(contender: str = "turnout", **changes: float) -> Run:
    plain: dict[str, float] = {
        "requests": 1000,
        "ok": 1000,
        "seconds": 1.0,
        "p50_us": 500,
        "p99_us": 900,
        "cpu_ns": 20_000_000,
        "foreign_cores": 0.0,
        "rss_bytes": 100e6,
        "largest_rss_bytes": 90e6,
    }
    return Run(contender=contender, **{**plain, **changes})  # type: ignore[arg-type]


def a_target(name: str = "turnout", pid: int = 0) -> Target:
    return Target(name, "1.0", pid, lambda seconds: Load(10, 10, seconds, 1, 2))


def a_summary(name: str, cpu_us: float, **changes: float) -> Summary:
    run = a_run(name, cpu_ns=cpu_us * 1000 * 1000, **changes)
    return summarise(a_target(name), [run], 1)
