"""Names, kinds and labels of all metrics. Label values come from documents or from this code, never from a caller."""

from dataclasses import dataclass
from typing import Literal

UNKNOWN_MODEL = "_unknown"  # no name begins like this, so it is nobody's model
NO_VERSION = "_none"  # no version was chosen
NO_ROLE = "none"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: As it is exposed.
        labels: In the order in which values are given.
        text: Help, one line.
        across: Of a gauge that several workers have: what stands for all of them.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str
    across: Literal["sum", "max", "min"] = "sum"


ROUTED = Family(
    "turnout_routed_total",
    "counter",
    ("model", "version", "how"),
    "Requests by how a version came to them: drawn, redirected (drawn, then given to stable), pinned, failover.",
)
JUDGED = Family(
    "turnout_judged_total",
    "counter",
    ("model", "version", "verdict"),
    "Failures of a canary by what its guard made of them: charged, shared, excused.",
)
ATTEMPTS = Family("turnout_attempts_total", "counter", ("model", "version", "outcome"), "Attempts by how they ended.")
ATTEMPT_SECONDS = Family(
    "turnout_attempt_seconds",
    "histogram",
    ("model", "version"),
    "Time of good attempts, from dispatch to the last byte.",
)
REQUESTS = Family(
    "turnout_requests_total",
    "counter",
    ("model", "version", "role", "code"),
    "Inference requests by the status that went out; 499: the client left first.",
)
REQUEST_SECONDS = Family(
    "turnout_request_seconds",
    "histogram",
    ("model",),
    "Time of answered inference requests, from their head to their answer.",
)
OVERHEAD_SECONDS = Family(
    "turnout_overhead_seconds",
    "histogram",
    ("model",),
    "Part of it that neither the client's body nor an attempt took: the gateway's own.",
)
BOUND_HITS = Family("turnout_bound_hits_total", "counter", ("bound",), "Requests refused at a bound of the data plane.")
INFLIGHT = Family("turnout_inflight", "gauge", (), "Inference requests in work.")
LOOP_LAG = Family("turnout_loop_lag_seconds", "gauge", (), "How far the loop that serves is behind.", "max")
CONNECTIONS = Family("turnout_connections", "gauge", ("listener",), "Open connections.")
MIRROR = Family("turnout_mirror_total", "counter", ("model", "version", "result"), "Copies for a shadow by their fate.")
MIRROR_PAIRS = Family(
    "turnout_mirror_pairs_total",
    "counter",
    ("model", "version", "agree"),
    "Pairs of a shadow's answer and the one that went out.",
)
GUARD_EVIDENCE = Family(
    "turnout_guard_evidence",
    "gauge",
    ("model", "version", "objective"),
    "Odds against the promise in this epoch; 1,000,000 trips. Stable's: 1,000 makes a fault shared.",
    "max",
)
GUARD_CAPPED = Family(
    "turnout_guard_capped",
    "gauge",
    ("model", "version", "objective"),
    "Hits of this epoch that were not evidence: more than two of one key.",
)
GUARD_LATE = Family(
    "turnout_guard_late",
    "gauge",
    ("model", "version", "objective"),
    "Hits of this epoch that came too late to be put in order.",
)
WEIGHT = Family(
    "turnout_route_weight_ratio", "gauge", ("model", "version"), "Weight in the document that is served, 0 to 1.", "max"
)
REVISION = Family("turnout_route_revision", "gauge", ("model",), "Revision that is served.", "min")
LATCHED = Family(
    "turnout_route_latched", "gauge", ("model", "version"), "1 while a person has to release the version.", "max"
)
LOWERED = Family(
    "turnout_route_lowered",
    "gauge",
    ("model", "version"),
    "1 while no draws go there, whatever the weight says.",
    "max",
)
READY = Family(
    "turnout_version_ready",
    "gauge",
    ("model", "version"),
    "1 while the version can answer on the backend that its route names.",
    "min",
)
EJECTIONS = Family(
    "turnout_ejections_total",
    "counter",
    ("model", "version"),
    "Instances of a remote version that were not asked for a while because they failed too often.",
)
INSTANCES = Family(
    "turnout_instances",
    "gauge",
    ("model", "version", "state"),
    "Instances of a remote version by state, as the worker that has most of them in it sees it.",
    "max",
)
FLIPS = Family(
    "turnout_flips_total",
    "counter",
    ("model", "version", "reason"),
    "Flips seen in documents since the start, by objective, or operator.",
)
APPLY_LAG = Family(
    "turnout_apply_lag_seconds",
    "gauge",
    (),
    "From the store's word of a change to serving it: the last change, or one that waits now.",
)
REFUSED_DOCUMENTS = Family("turnout_refused_documents", "gauge", (), "Routes whose newest revision cannot be served.")
WARNINGS = Family(
    "turnout_warnings",
    "gauge",
    ("kind", "model", "version"),
    "Things to look at, as the warnings of a status: how many of this kind there are now.",
)
UNSENT_LOWERS = Family("turnout_unsent_lowers", "gauge", (), "Flips of guards that the store does not hold yet.")
STORE_REACHABLE = Family("turnout_store_reachable", "gauge", (), "1 while the store answers.")
STORE_LOSSES = Family("turnout_store_losses_total", "counter", (), "How often the store went away.")
STALE = Family(
    "turnout_store_stale",
    "gauge",
    (),
    "1 while the store has been away for longer than store.stale_after_s: the table that serves may be old.",
)
CONVERGENCE = Family(
    "turnout_convergence_seconds",
    "histogram",
    (),
    "From the write of a change to the word of this gateway that it serves it, both by the store's clock.",
)
FLUSHES = Family(
    "turnout_flushes_total",
    "counter",
    ("result",),
    "News of guards and counts for the store: taken, or repeated because nobody knew whether they were.",
)
NEWS_DROPPED = Family(
    "turnout_news_dropped_total",
    "counter",
    (),
    "News of versions that found no room while the store was away: totals and the judge miss them.",
)
JUDGES = Family("turnout_judges", "gauge", (), "1 while this gateway judges what all on the store have seen.")
STORE_JUNK = Family(
    "turnout_store_junk_total",
    "counter",
    (),
    "Times that something among what gateways share could not be read: skipped, or taken away.",
)
DESCRIBED = Family(
    "turnout_versions_described_total",
    "counter",
    ("result",),
    "Versions that an edit asked for before any worker had them: described, or unknown still.",
)
LOGINS_REFUSED = Family("turnout_logins_refused_total", "counter", ("why",), "Log-ins that were refused.")
SERIES_REFUSED = Family(
    "turnout_series_refused_total",
    "counter",
    (),
    "Series that found no room in a worker's block: they are missing here, requests are not.",
)
WORKERS = Family("turnout_workers", "gauge", ("state",), "Workers by state: serving, starting, silent.")
WORKERS_ENDED = Family(
    "turnout_workers_ended_total", "counter", ("why",), "Workers that ended unasked: died, or killed for their silence."
)
WORKERS_LATE = Family(
    "turnout_workers_late_total",
    "counter",
    (),
    "Questions of a status or a scrape that a worker did not answer in time.",
)
BUILD_INFO = Family("turnout_build_info", "gauge", ("version", "python", "onnxruntime"), "Always 1.", "max")

FAMILIES = {
    family.name: family
    for family in (
        REQUESTS,
        ATTEMPTS,
        ATTEMPT_SECONDS,
        REQUEST_SECONDS,
        OVERHEAD_SECONDS,
        ROUTED,
        JUDGED,
        MIRROR,
        MIRROR_PAIRS,
        GUARD_EVIDENCE,
        GUARD_CAPPED,
        GUARD_LATE,
        WEIGHT,
        REVISION,
        LATCHED,
        LOWERED,
        READY,
        FLIPS,
        APPLY_LAG,
        REFUSED_DOCUMENTS,
        UNSENT_LOWERS,
        WARNINGS,
        INFLIGHT,
        LOOP_LAG,
        CONNECTIONS,
        BOUND_HITS,
        EJECTIONS,
        INSTANCES,
        STORE_REACHABLE,
        STORE_LOSSES,
        STALE,
        CONVERGENCE,
        FLUSHES,
        NEWS_DROPPED,
        JUDGES,
        STORE_JUNK,
        DESCRIBED,
        LOGINS_REFUSED,
        SERIES_REFUSED,
        WORKERS,
        WORKERS_ENDED,
        WORKERS_LATE,
        BUILD_INFO,
    )
}
