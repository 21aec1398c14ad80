"""The counts of one worker in memory that outlives it: one writer, any number of readers, no locks.

Layout, in words of eight bytes, native order: a header (``MAGIC``, ``LAYOUT``, sizes, and how far they are used), a
directory of JSON lines that say what each cell counts, the cells. Whatever is published is complete: a line is written
before the header says that it is there, cells are zero until then, and a word is read or written as a whole.
"""

import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

MAGIC = int.from_bytes(b"turnout\x00", "little")
LAYOUT = 1
CELLS = 1 << 18  # about 7,000 versions; memory is taken as it is used
DIRECTORY_BYTES = 1 << 22
WORD = 8
Memory = mmap.mmap | bytearray | memoryview
HEADER_WORDS = 8
_MAGIC, _LAYOUT, _CELLS, _DIRECTORY, _CELLS_USED, _DIRECTORY_USED, _REFUSED, _ = range(HEADER_WORDS)


class BadBlock(ValueError):
    """This memory is no block of this release."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What some cells count.

    Attributes:
        metric: Name of the family.
        labels: Values of its labels, of all but the last where ``each`` is given.
        each: Values of the last label, one cell for each.
        edges_s: Of a histogram: upper edges. One cell for each, one for what lies above, one for the sum (a float).
    """

    metric: str
    labels: tuple[str, ...]
    each: tuple[str, ...] = ()
    edges_s: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.edges_s) + 2 if self.edges_s else len(self.each) or 1


class Row:
    """Some cells. ``counts`` and ``floats`` are two views of the same words."""

    __slots__ = ("counts", "floats")

    def __init__(self, memory: memoryview) -> None:
        self.counts = memory.cast("Q")
        self.floats = memory.cast("d")

    def part(self, begin: int, end: int) -> "Row":
        """Some of them."""
        return Row(self.counts[begin:end].cast("B"))


def private_row(size: int) -> Row:
    """Cells that nobody reads."""
    return Row(memoryview(bytearray(size * WORD)))


def shared_memory(size: int) -> int:
    """A descriptor of zeroed memory that children may inherit and that vanishes with its last holder."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("turnout-metrics")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class Block:
    """The writer's side.

    Args:
        memory: Writable and zeroed; made by the process that will read it when the writer is gone.
    """

    def __init__(self, memory: Memory, *, cells: int = CELLS, directory_bytes: int = DIRECTORY_BYTES) -> None:
        view = memoryview(memory)
        begin = HEADER_WORDS * WORD + directory_bytes
        self._head = view[: HEADER_WORDS * WORD].cast("Q")
        self._directory = view[HEADER_WORDS * WORD : begin]
        self._cells = view[begin : begin + cells * WORD]
        self._head[_LAYOUT], self._head[_CELLS], self._head[_DIRECTORY] = LAYOUT, cells, directory_bytes
        self._head[_MAGIC] = MAGIC

    @staticmethod
    def bytes_for(*, cells: int = CELLS, directory_bytes: int = DIRECTORY_BYTES) -> int:
        """Size of the memory."""
        return HEADER_WORDS * WORD + directory_bytes + cells * WORD

    def claim(self, entries: Sequence[Entry]) -> Row:
        """Cells for some entries, next to each other.

        Where the block is full, that is counted and the row is a private one: the worker goes on, nobody sees it.
        """
        first, size = self._head[_CELLS_USED], sum(entry.size for entry in entries)
        lines = b"".join(_lines(entries, first))
        used = self._head[_DIRECTORY_USED]
        if first + size > self._head[_CELLS] or used + len(lines) > self._head[_DIRECTORY]:
            self._head[_REFUSED] += len(entries)
            return private_row(size)
        self._directory[used : used + len(lines)] = lines
        self._head[_CELLS_USED] = first + size
        self._head[_DIRECTORY_USED] = used + len(lines)
        return Row(self._cells[first * WORD : (first + size) * WORD])


def _lines(entries: Sequence[Entry], first: int) -> Iterable[bytes]:
    for entry in entries:
        plain = [entry.metric, entry.labels, entry.each, entry.edges_s, first]
        yield json.dumps(plain, separators=(",", ":")).encode() + b"\n"
        first += entry.size


def shared_block() -> tuple[Block, "Reader"]:
    """A block and its reader, for a writer in this process."""
    descriptor, reader = inheritable_block()
    block = Block(mapped(descriptor))
    os.close(descriptor)
    return block, reader


def inheritable_block() -> tuple[int, "Reader"]:
    """A descriptor of an empty block, for a writer in another process, and its reader."""
    descriptor = shared_memory(Block.bytes_for())
    memory = mapped(descriptor)
    Block(memory)  # its header, so that it can be read before the writer is there
    return descriptor, Reader(memory)


def mapped(descriptor: int) -> mmap.mmap:
    """The memory behind a descriptor; holds it when the descriptor is closed."""
    return mmap.mmap(descriptor, Block.bytes_for())


class Reader:
    """The reader's side, in the same process or another, while the writer writes or after it has died.

    Raises:
        BadBlock: The memory holds something else.
    """

    def __init__(self, memory: Memory) -> None:
        view = memoryview(memory)
        if view.nbytes < HEADER_WORDS * WORD:
            raise BadBlock("shorter than a block's header")
        self._head = view[: HEADER_WORDS * WORD].cast("Q")
        if (self._head[_MAGIC], self._head[_LAYOUT]) != (MAGIC, LAYOUT):
            raise BadBlock("not a block of this release")
        begin = HEADER_WORDS * WORD + self._head[_DIRECTORY]
        if begin + self._head[_CELLS] * WORD > view.nbytes:
            raise BadBlock("shorter than its header says")
        self._directory = view[HEADER_WORDS * WORD : begin]
        self._cells = view[begin : begin + self._head[_CELLS] * WORD]
        self._at_work = Lock()
        self._parsed = 0
        self._entries: list[tuple[Entry, int, int]] = []

    @property
    def refused(self) -> int:
        """Entries that found no room."""
        return self._head[_REFUSED]

    def read(self) -> list[tuple[Entry, Sequence[int], float]]:
        """Each entry with its counts and, of a histogram, its sum."""
        with self._at_work:  # a scrape adds up in a thread of its own
            return self._read()

    def _read(self) -> list[tuple[Entry, Sequence[int], float]]:
        self._parse()
        used = min(self._head[_CELLS_USED], self._head[_CELLS])
        copied = bytes(self._cells[: used * WORD])
        counts, floats = memoryview(copied).cast("Q").tolist(), memoryview(copied).cast("d")
        found: list[tuple[Entry, Sequence[int], float]] = []
        for entry, first, end in self._entries:
            if entry.edges_s:
                found.append((entry, counts[first : end - 1], floats[end - 1]))
            else:
                found.append((entry, counts[first:end], 0.0))
        return found

    def _parse(self) -> None:
        """Read the lines that came since the last time."""
        used = min(self._head[_DIRECTORY_USED], self._head[_DIRECTORY])
        for line in bytes(self._directory[self._parsed : used]).splitlines():
            metric, labels, each, edges_s, first = json.loads(line)
            entry = Entry(metric, tuple(labels), tuple(each), tuple(edges_s))
            self._entries.append((entry, first, first + entry.size))
        self._parsed = used
