"""Several gateways on one Redis, and a canary that dies or answers errors: all of them turn to stable at once."""

import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from loadtests.options import Options
from loadtests.result import Promise, Result, at_most, none_of
from loadtests.samples import percentile
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Entry, Fate, Ledger
from tests.chaos.subject import CANARY, MODEL

RATE = 500.0  # requests a second over all replicas, 20 % of them the canary's
HEALTHY_S = 2.0
AFTER_S = 2.0  # of traffic after the latch
UNREADY_FLIP_S = 5.0
UNREADY_MARGIN_S = 1.5  # a probe's pause, and the way through the store
LIMIT_MS = 500.0
LATCH_S = 20.0
POLL_S = 0.25  # to ask costs the gateways something


def canary_killed(options: Options) -> Result:
    """Promises: no error, stable answers the canary's share at once, the latch comes after ``unready_flip_s``."""
    result, struck_s, latched_s, ledger = _run("replicas-canary-killed", options, lambda fleet: fleet.canary.kill())
    took_ms = [entry.took_s * 1000 for entry in ledger.entries if entry.done_s >= struck_s]
    result.promises += [
        at_most("slowest answer from the kill on", LIMIT_MS, max(took_ms), " ms"),
        at_most("latched after", UNREADY_FLIP_S + UNREADY_MARGIN_S, latched_s - struck_s, " s"),
        Promise(
            "not latched before", f">= {UNREADY_FLIP_S:g} s", f"{latched_s - struck_s:.2f} s",
            latched_s - struck_s >= UNREADY_FLIP_S - 0.1,
        ),
    ]  # fmt: skip
    result.figures["p99 ms from the kill on"] = percentile(took_ms, 0.99)
    return result


def canary_errors(options: Options) -> Result:
    """Promises: no error, and no replica asks the canary 500 ms after the evidence was there."""
    breakage: Callable[[Fleet], None] = lambda fleet: fleet.canary.set("error_500")  # noqa: E731
    result, struck_s, latched_s, ledger = _run("replicas-canary-errors", options, breakage)
    for replica in range(options.replicas):
        last = max((e for e in ledger.entries if e.replica == replica and _asked_canary(e)), key=lambda e: e.sent_s)
        late_ms = (last.sent_s - latched_s) * 1000
        result.promises.append(
            at_most(f"replica {replica} asks the canary, after the evidence", LIMIT_MS, late_ms, " ms")
        )
    result.figures["evidence after ms"] = (latched_s - struck_s) * 1000
    took_ms = [entry.took_s * 1000 for entry in ledger.entries if entry.done_s >= struck_s]
    result.figures |= {"slowest ms": max(took_ms), "p99 ms": percentile(took_ms, 0.99)}
    failed = [e for e in ledger.entries if e.sent_s >= struck_s and e.attempts == "2"]
    result.figures["failed over in all"] = len(failed)
    return result


def _run(name: str, options: Options, strike: Callable[[Fleet], None]) -> tuple[Result, float, float, Ledger]:
    """Traffic, the strike, the latch; times on the monotonic clock."""
    result, rate = Result(name), options.rate or RATE
    with (
        tempfile.TemporaryDirectory(prefix="turnout-load-") as folder,
        Fleet(Path(folder), count=options.replicas, workers=1, unready_flip_s=UNREADY_FLIP_S, is_direct=True) as fleet,
    ):
        with fleet.client(rate) as client:
            time.sleep(options.seconds or HEALTHY_S)
            struck_s = time.monotonic()
            strike(fleet)
            while not fleet.is_latched() and time.monotonic() < struck_s + LATCH_S:
                time.sleep(POLL_S)
            time.sleep(AFTER_S)
        latch = fleet.replicas[0].read(f"/routes/{MODEL}")["guard"]["latched"].get(CANARY)
        if latch is None:
            raise RuntimeError(f"no latch {LATCH_S:g} s after the canary broke")
        disagreement = fleet.disagreement()
    ledger = client.ledger
    latched_s = datetime.fromisoformat(latch["at"]).timestamp() - time.time() + time.monotonic()
    result.promises = [
        none_of("errors at the client", ledger.problems()),
        none_of("replicas that disagree at the end", [disagreement] if disagreement else []),
    ]
    result.figures = {
        "requests a second": rate,
        "replicas": options.replicas,
        "requests": len(ledger.entries),
        **{f"requests that were {fate}": count for fate, count in ledger.counts().items()},
        "canary's share before %": _share(ledger, struck_s),
        "reason of the latch": latch["reason"],
    }
    return result, struck_s, latched_s, ledger


def _asked_canary(entry: Entry) -> bool:
    return entry.fate is Fate.RIGHT and (entry.version == CANARY or entry.attempts == "2")


def _share(ledger: Ledger, until_s: float) -> float:
    before = [entry for entry in ledger.entries if entry.sent_s < until_s]
    return 100 * sum(map(_asked_canary, before)) / max(len(before), 1)
