"""A shadow of one compiled route: where copies go, which requests are copied, and what came of them."""

from collections import Counter

from gateway.backends.registry import BackendKey, Slot
from gateway.metrics.ledger import Ledger
from routing.analysis.compare import Pairs
from routing.analysis.outcome import Kind
from routing.document import RouteDocument
from routing.hashing import bucket, shadow_salt
from routing.table import PPM, BackendSpec, Shadow


class ShadowEvidence:
    """What is known of one shadow in one epoch and beside one stable; travels from route to route while they last.

    ``offered = sent + sum(not_sent) + waiting`` at every moment, and ``sent = sum(results) + in_flight``.

    Attributes:
        epoch: Of the shadow's version.
        stable: Version and backend that pairs are made with.
        offered: Requests in the sample.
        sent: Copies that were sent.
        not_sent: Copies that were not, by reason.
        results: Copies that were sent, by how they ended.
        not_paired: Of these, those whose request stable did not answer.
        not_compared: Pairs that both answered and nobody compared: no time, no room, or an answer that is too large.
        waiting: Copies in the queue.
        in_flight: Copies that were sent and have not ended.
        last_sent_s: On the gateway's clock.
        since_s: When the epoch began here, on the same.
    """

    __slots__ = (
        "epoch",
        "in_flight",
        "last_sent_s",
        "not_compared",
        "not_paired",
        "not_sent",
        "offered",
        "pairs",
        "results",
        "sent",
        "since_s",
        "stable",
        "waiting",
    )

    def __init__(self, epoch: int, stable: tuple[str, BackendSpec], *, since_s: float = 0.0) -> None:
        self.epoch = epoch
        self.since_s = since_s
        self.stable = stable
        self.offered = self.sent = self.waiting = self.in_flight = 0
        self.not_paired = self.not_compared = 0
        self.not_sent: dict[str, int] = {}
        self.results: dict[str, int] = {}
        self.pairs = Pairs()
        self.last_sent_s: float | None = None

    def drop(self, reason: str) -> None:
        """A copy is not sent."""
        self.not_sent[reason] = self.not_sent.get(reason, 0) + 1

    def ended(self, kind: Kind) -> None:
        """A copy that was sent has ended."""
        self.results[kind.value] = self.results.get(kind.value, 0) + 1


class MirrorCounts:
    """What became of all copies of a worker, whatever the epoch. Only ever grows; written by one loop.

    Args:
        ledger: Where the metrics count them; ``None``: privately.

    Attributes:
        results: By model, version, and how a copy ended or why it was not sent.
        pairs: By model, version, and ``true`` or ``false``: whether two answers agree. One that only one side gave is
            ``false``.
    """

    __slots__ = ("_ledger", "pairs", "results")

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger or Ledger()
        self.results: Counter[tuple[str, ...]] = Counter()
        self.pairs: Counter[tuple[str, ...]] = Counter()

    def copy(self, key: BackendKey, result: str) -> None:
        """One copy has ended, or is not sent."""
        self.results[key.model, key.version, result] += 1
        self._ledger.copy(key.model, key.version, result)

    def pair(self, key: BackendKey, *, agrees: bool) -> None:
        """One pair is known."""
        self.pairs[key.model, key.version, "true" if agrees else "false"] += 1
        self._ledger.pair(key.model, key.version, agrees=agrees)


class CompiledShadow:
    """One shadow, compiled.

    Attributes:
        slot: A backend of its own, which serves no client.
        timeout_s: What a copy may wait in the queue, and then take.
        takes_all: Every request is in the sample.
        compares: Its answers are compared with stable's.
    """

    __slots__ = (
        "_salt",
        "compares",
        "evidence",
        "max_body_bytes",
        "sample_ppm",
        "slot",
        "takes_all",
        "timeout_s",
        "version",
    )

    def __init__(self, document: RouteDocument, shadow: Shadow, slot: Slot, evidence: ShadowEvidence) -> None:
        self._salt = shadow_salt(document.salt, document.intervals.draw, shadow.version)
        self.version = shadow.version
        self.slot = slot
        self.evidence = evidence
        self.sample_ppm = shadow.sample_ppm
        self.takes_all = shadow.sample_ppm >= PPM
        self.compares = shadow.compare
        self.timeout_s = shadow.timeout_ms / 1000
        self.max_body_bytes = shadow.max_body_kb * 1024

    def takes(self, key: bytes) -> bool:
        """Whether the requests of a key are in the sample."""
        return self.takes_all or bucket(self._salt, key) < self.sample_ppm
