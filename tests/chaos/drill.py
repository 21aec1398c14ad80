"""One drill: traffic, the fault at its moment, healing, agreement; then the ledger is read."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Ledger
from tests.chaos.operators import Operators
from tests.chaos.rows import Flip, Moment, Row
from tests.chaos.subject import MODEL

BEFORE_S = 0.4  # traffic, before anything happens
INTO_FLIP_S = 0.05  # from the canary's first fault to ours
AFTER_S = 0.2  # traffic, after all agree
POLL_S = 0.05


@dataclass(slots=True)
class Report:
    """What was seen.

    Attributes:
        agreed_s: From the healing until all replicas served one document; ``None``: they did not.
        writes: Acknowledged.
        problems: Empty when the drill is passed.
    """

    row: Row
    ledger: Ledger
    agreed_s: float | None = None
    writes: int = 0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """In one line."""
        counts = self.ledger.counts()
        seen = ", ".join(f"{counts[name]} {name}" for name in sorted(counts, key=counts.__getitem__, reverse=True))
        agreed = "never agreed" if self.agreed_s is None else f"agreed after {self.agreed_s:.2f} s"
        verdict = "ok  " if not self.problems else "FAIL"
        return f"{verdict} {self.row.name}: {len(self.ledger.entries)} sent: {seen}; {self.writes} writes; {agreed}"


def run(fleet: Fleet, row: Row, *, rate: float, patience: float = 1.0) -> Report:
    """Run one drill on a fleet; it ends healed, whatever was seen. ``patience`` stretches the time for agreement."""
    within_s = row.within_s * patience
    fleet.calm()
    with ExitStack() as stack:
        client = stack.enter_context(fleet.client(rate))
        operators: Operators | None = None
        if row.moment is Moment.EDITS:
            document = fleet.replicas[0].read(f"/routes/{MODEL}")
            operators = stack.enter_context(Operators(fleet.replicas, document))
        report = Report(row, client.ledger)
        time.sleep(BEFORE_S)
        if row.moment is Moment.FLIP:
            fleet.canary.set("error_500")
            time.sleep(INTO_FLIP_S)
        try:
            row.fault.strike(fleet, client)
            time.sleep(row.hold_s)
        finally:
            row.fault.heal(fleet, client)
        healed_s = time.monotonic()
        if operators is not None:
            time.sleep(AFTER_S)
            operators.stop()
            healed_s = time.monotonic()
        last = _agree(fleet, row, report, healed_s, within_s)
        time.sleep(AFTER_S)
    report.problems += report.ledger.problems()
    if report.agreed_s is None:
        report.problems.append(f"no agreement {within_s:g} s after the healing: {last}")
    _read_document(fleet, report, operators)
    return report


def _agree(fleet: Fleet, row: Row, report: Report, healed_s: float, within_s: float) -> str:
    """Wait for agreement; why there was none."""
    while True:
        last = fleet.disagreement()
        if not last and row.ends_latched and not fleet.is_latched():
            last = "the canary is not latched everywhere"
        took_s = time.monotonic() - healed_s
        if not last:
            report.agreed_s = took_s
            return ""
        if took_s > within_s:
            return last
        time.sleep(POLL_S)


def _read_document(fleet: Fleet, report: Report, operators: Operators | None) -> None:
    document: Any = fleet.replicas[-1].read(f"/routes/{MODEL}")
    if document is None:
        report.problems.append("the document cannot be read after the drill")
        return
    if operators is not None:
        report.writes = operators.writes
        report.problems += operators.problems(document)
    if report.row.flip is Flip.NEVER and not report.row.ends_latched and document["guard"]["latched"]:
        report.problems.append(f"the canary was latched for nothing: {document['guard']['latched']}")
    history = fleet.replicas[-1].read(f"/routes/{MODEL}/history?verify=1")
    if not (history and history["verified"]):
        report.problems.append(f"the history is not whole: {history and history.get('error')}")
