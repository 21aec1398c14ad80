"""What may be asked of a scenario on the command line."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run; ``None`` leaves a scenario its own default.

    Attributes:
        seconds: Length of the traffic.
        rate: Requests a second.
        seed: Of arrivals and customers.
        max_charged: Charged attempts that canary-errors promises at most.
        on_failure: ``pass`` hands a canary's failures to clients, which breaks promises on purpose.
        both: canary scenarios: spread the traffic over both gateways instead of watching an idle one.
        edits: How many edits edit-latency times.
        replicas: How many gateways soak and replicas-* start.
    """

    seconds: float | None = None
    rate: float | None = None
    seed: int = 1
    max_charged: int = 5
    on_failure: str = "retry_stable"
    both: bool = False
    edits: int = 300
    replicas: int = 3
