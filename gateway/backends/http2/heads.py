"""What header blocks of gRPC answers say, and those that were read before."""

from typing import NamedTuple
from urllib.parse import unquote

from gateway.backends.http2.frames import Violation
from gateway.backends.http2.hpack import read_block

BLOCKS_MAX = 256  # header blocks that are remembered of one server
BLOCK_BYTES = 1024  # a longer one is read anew every time
MAX_STATUS = 16  # of gRPC's
MAX_SENTENCE = 4096  # characters of an error's message that are kept


class Head(NamedTuple):
    """A header block.

    Attributes:
        status: HTTP status; ``None`` in trailers.
        grpc_status: 0 to 16; ``None`` where the block names none. A number that there is not is 2, unknown.
        sentence: The server's words for it.
    """

    status: int | None
    grpc_status: int | None
    sentence: str


class KnownBlocks:
    """Header blocks by their bytes. They mean the same wherever they stand: there is no dynamic table.

    Attributes:
        forgotten: How often all were forgotten because there was no room.
    """

    __slots__ = ("_by_bytes", "forgotten")

    def __init__(self) -> None:
        self._by_bytes: dict[bytes, Head] = {}
        self.forgotten = 0

    def read(self, block: bytes) -> Head:
        """What a block says.

        Raises:
            Violation: It is none.
        """
        head = self._by_bytes.get(block)
        if head is not None:
            return head
        head = _read(block)
        if len(block) <= BLOCK_BYTES:
            if len(self._by_bytes) >= BLOCKS_MAX:
                self._by_bytes.clear()
                self.forgotten += 1
            self._by_bytes[block] = head
        return head


def _read(block: bytes) -> Head:
    status = grpc_status = None
    sentence = ""
    for name, value in read_block(block):
        if name == b":status":
            if not value.isdigit() or len(value) != 3:
                raise Violation("sent a status that is no number")
            status = int(value)
        elif name == b"grpc-status":
            grpc_status = int(value) if value.isdigit() and len(value) <= 2 and int(value) <= MAX_STATUS else 2
        elif name == b"grpc-message":
            sentence = unquote(value[:MAX_SENTENCE].decode("latin-1"), errors="replace")
    return Head(status, grpc_status, sentence)
