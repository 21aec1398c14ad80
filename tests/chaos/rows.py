"""The table of drills: which part dies, in the middle of what, and what may be seen of it."""

from dataclasses import dataclass
from enum import Enum

from tests.chaos import faults
from tests.chaos.faults import Fault


class Moment(Enum):
    """What goes on when the fault strikes."""

    QUIET = "in quiet"
    FLIP = "while a canary breaks"
    EDITS = "while operators edit"


class Flip(Enum):
    """What becomes of the canary."""

    NEVER = "keeps its weight"
    ALWAYS = "is latched everywhere"
    MAYBE = "may be latched"


@dataclass(frozen=True, slots=True)
class Row:
    """One drill.

    Attributes:
        hold_s: Between the strike and the healing.
        within_s: After the healing all replicas serve one document.
        flip: What becomes of the canary; while it breaks it always ends latched.
        short: Also part of ``make test``.
    """

    fault: Fault
    moment: Moment
    hold_s: float = 1.0
    within_s: float = 4.0
    flip: Flip = Flip.NEVER
    short: bool = False

    @property
    def name(self) -> str:
        return f"{self.fault.name}, {self.moment.value}"

    @property
    def ends_latched(self) -> bool:
        return self.moment is Moment.FLIP or self.flip is Flip.ALWAYS


Q, F, E = Moment
NEVER, ALWAYS, MAYBE = Flip

ROWS = (
    Row(faults.REDIS_KILLED, Q),
    Row(faults.REDIS_KILLED, F),
    Row(faults.REDIS_KILLED, E, short=True),
    Row(faults.REDIS_LOST, Q),
    Row(faults.REDIS_LOST, F, short=True),
    Row(faults.REDIS_LOST, E),
    Row(faults.REDIS_FROZEN, Q, hold_s=3.0),
    Row(faults.REDIS_FROZEN, F, hold_s=1.5, short=True),
    Row(faults.REDIS_FROZEN, E, hold_s=2.5),
    Row(faults.REDIS_FLUSHED, Q),
    Row(faults.REDIS_FLUSHED, F),
    Row(faults.REDIS_FLUSHED, E, hold_s=0.5, short=True),
    Row(faults.REDIS_SLOW, F, hold_s=2.0),
    Row(faults.REDIS_SLOW, E, hold_s=3.0),
    Row(faults.REDIS_RESET, F),
    Row(faults.REDIS_RESET, E),
    Row(faults.REDIS_PARTED, F, hold_s=2.0),
    Row(faults.REDIS_PARTED, E, hold_s=2.0),
    Row(faults.CANARY_KILLED, Q, hold_s=2.0, flip=ALWAYS, short=True),
    Row(faults.CANARY_KILLED, E, hold_s=2.0, flip=ALWAYS),
    Row(faults.CANARY_FROZEN, Q, hold_s=3.0, flip=MAYBE),
    Row(faults.CANARY_FROZEN, E, hold_s=3.0, flip=MAYBE),
    Row(faults.CANARY_RESET, Q, flip=MAYBE, short=True),
    Row(faults.CANARY_RESET, E, flip=MAYBE),
    Row(faults.CANARY_SLOW, Q, hold_s=2.0),
    Row(faults.WORKER_KILLED, Q),
    Row(faults.WORKER_KILLED, F, short=True),
    Row(faults.WORKER_KILLED, E),
    Row(faults.WORKER_FROZEN, Q, hold_s=2.0, within_s=8.0),
    Row(faults.WORKER_FROZEN, F, hold_s=2.0, within_s=8.0),
    Row(faults.WORKER_FROZEN, E, hold_s=2.0, within_s=8.0, short=True),
    Row(faults.WORKER_PAUSED, F),
    Row(faults.WORKER_PAUSED, E),
    Row(faults.SUPERVISOR_KILLED, Q),
    Row(faults.SUPERVISOR_KILLED, F),
    Row(faults.SUPERVISOR_KILLED, E),
    Row(faults.SUPERVISOR_FROZEN, F, hold_s=1.5, short=True),
    Row(faults.SUPERVISOR_FROZEN, E, hold_s=2.5),
    Row(faults.REPLICA_KILLED, Q),
    Row(faults.REPLICA_KILLED, F),
    Row(faults.REPLICA_KILLED, E, short=True),
    Row(faults.REPLICA_FROZEN, Q, hold_s=1.5),
    Row(faults.REPLICA_FROZEN, F, hold_s=1.5),
    Row(faults.REPLICA_FROZEN, E, hold_s=1.5),
    Row(faults.CLIENTS_RESET, F),
    Row(faults.CLIENTS_RESET, E),
)
