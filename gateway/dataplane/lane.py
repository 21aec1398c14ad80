"""What all connections of the fast lane share, and how heads of its answers are written."""

from collections.abc import Callable
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.dataplane.admission import RETRY_AFTER_S, Gate, RequestIds
from gateway.dataplane.infer_heads import HeadReader
from gateway.dataplane.pipeline import Pipeline
from gateway.dataplane.tally import Tally

JOIN_BYTES = 64 * 1024  # a body up to this size leaves in one piece with its head; a larger one is not copied
OPENINGS = 1024  # sizes of answers whose opening is kept; for a second at most, as long as the date stands
END = b"\r\n"
CLOSING = b"connection: close\r\n"
RETRY = b"retry-after: %d\r\n" % RETRY_AFTER_S


class Lane:
    """What all connections of one listener share.

    Args:
        gate: Counts requests in hand, of both lanes.
        heads: Reads heads.
        ids: For requests that bring none.
        clock: Monotonic seconds.

    Attributes:
        usual: Openings of good answers in JSON by their size, that leave in one piece with their body.
        stamp: The default lines that stand in them.
    """

    def __init__(
        self,
        gate: Gate,
        heads: HeadReader,
        ids: RequestIds,
        pipeline: Pipeline,
        tally: Tally,
        clock: Callable[[], float],
    ) -> None:
        self.gate = gate
        self.ids = ids
        self.heads = heads
        self.pipeline = pipeline
        self.tally = tally
        self.clock = clock
        self.stamp: object = None
        self.usual: dict[int, bytes] = {}

    def opening(self, defaults: list[tuple[bytes, bytes]], status: int, length: int | None, size: int) -> bytes:
        """An answer up to the value of ``x-request-id``; that of the usual ones is kept in ``usual``.

        Args:
            defaults: Lines of every answer; another list whenever they change.
            status: HTTP status.
            length: Of the JSON part when binary tensors follow it, else ``None``.
            size: Of the body, in bytes.
        """
        if self.stamp is not defaults:
            self.stamp, self.usual = defaults, {}
        made = b"%s%scontent-type: application/%s\r\ncontent-length: %d\r\nx-request-id: " % (
            STATUS_LINE[status],
            b"".join(b"%s: %s\r\n" % line for line in defaults),
            b"json" if length is None else b"octet-stream",
            size,
        )
        if status == 200 and length is None and size <= JOIN_BYTES and len(self.usual) < OPENINGS:
            self.usual[size] = made
        return made


def ending(status: int, length: int | None, is_last: bool) -> bytes:
    """The end of a head, with lines that most answers do not have, in the order of the other lane."""
    inner = b"" if length is None else b"inference-header-content-length: %d\r\n" % length
    retry = RETRY if status == HTTPStatus.SERVICE_UNAVAILABLE else b""
    return inner + retry + (CLOSING if is_last else b"") + END
