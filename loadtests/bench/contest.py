"""Holding a contest: start whoever is installed, run them in turn, sum up."""

import traceback

from rich.console import Console

from loadtests.bench.machine import Lab, Missing
from loadtests.bench.measure import Run, interleave, summarise
from loadtests.bench.report import Outcome, outcome_of
from loadtests.bench.row import Contest
from loadtests.bench.target import Target


def hold(lab: Lab, contest: Contest, console: Console) -> Outcome:
    """Run a contest. A contender that is not installed, or does not start, is named with the reason."""
    outcome = outcome_of(contest)
    targets: list[Target] = []
    for name, start in contest.contenders.items():
        try:
            targets.append(start(lab))
        except Missing as reason:
            outcome.missing[name] = str(reason)
        except Exception as problem:
            traceback.print_exc()
            outcome.missing[name] = f"does not run: {problem!r}"[:300]

    def watch(run: Run) -> None:
        mark = " disturbed" if run.disturbed else ""
        console.print(
            f"  {contest.name} {run.contender}: {run.cpu_us:.1f} µs, {run.ok / run.seconds:,.0f}/s, "
            f"core {run.busy_share:.0%}, others {run.foreign_cores:.2f}{mark}",
            highlight=False,
        )

    outcome.runs = interleave(lab, targets, watch)
    outcome.summaries = [summarise(target, outcome.runs, lab.rounds) for target in targets]
    outcome.figures = contest.derive(lab, {summary.contender: summary for summary in outcome.summaries})
    return outcome
