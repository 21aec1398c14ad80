"""Bodies that come compressed: decoded step by step, bounded by what they become, off the loop when they are large."""

import asyncio
import importlib
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gateway.errors import BadRequest, BodyTooLarge, UnsupportedEncoding

STEP_BYTES = 64 << 10  # what goes in and what comes out between two looks at the bound
ON_LOOP_STEPS = 2  # a body that takes more is decoded on a thread: one client must not stall the others
MAX_MEMBERS = 4096  # gzip members or zstd frames behind one another; a step may be spent on each
DECODER_THREADS = 2
ZSTD_WINDOW_LOG = 23  # 8 MiB, what RFC 8878 asks of every decoder; a larger window is memory that a client chooses

Pieces = Generator[bytes, None, None]
GZIP_BITS, ZLIB_BITS = 31, 15


def _zstd() -> Any:
    """The library of Python 3.14, or its backport, or ``None``."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


zstd = _zstd()


def _of_zlib(body: bytes, bits: int) -> Pieces:
    view, at = memoryview(body), 0
    for member in range(MAX_MEMBERS):
        at = yield from _member(view, at, bits)
        if at == len(view):
            return
        if bits == ZLIB_BITS or member + 1 == MAX_MEMBERS:
            break
    raise BadRequest("there is more behind the compressed body")


def _member(view: memoryview, at: int, bits: int) -> Generator[bytes, None, int]:
    decoder = zlib.decompressobj(bits)
    while not decoder.eof:
        given = view[at : at + STEP_BYTES]
        if not given:
            raise BadRequest("the compressed body is cut off")
        at += len(given)
        piece = decoder.decompress(given, STEP_BYTES)
        yield piece
        while not decoder.eof and (decoder.unconsumed_tail or len(piece) == STEP_BYTES):
            piece = decoder.decompress(decoder.unconsumed_tail, STEP_BYTES)
            yield piece
    return at - len(decoder.unused_data)


def _of_zstd(body: bytes) -> Pieces:
    view, at = memoryview(body), 0
    for _ in range(MAX_MEMBERS):
        at = yield from _frame(view, at)
        if at == len(view):
            return
    raise BadRequest("there is more behind the compressed body")


def _frame(view: memoryview, at: int) -> Generator[bytes, None, int]:
    decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})
    while not decoder.eof:
        given = view[at : at + STEP_BYTES]
        if not given:
            raise BadRequest("the compressed body is cut off")
        at += len(given)
        yield decoder.decompress(given, STEP_BYTES)
        while not decoder.eof and not decoder.needs_input:
            yield decoder.decompress(b"", STEP_BYTES)
    return at - len(decoder.unused_data)


CODINGS: dict[str, Callable[[bytes], Pieces]] = {
    "gzip": lambda body: _of_zlib(body, GZIP_BITS),
    "deflate": lambda body: _of_zlib(body, ZLIB_BITS),
}
if zstd is not None:
    CODINGS["zstd"] = _of_zstd
ACCEPTED = ", ".join(CODINGS)
DAMAGED: tuple[type[Exception], ...] = (zlib.error,) if zstd is None else (zlib.error, zstd.ZstdError)


def coding_of(values: Iterable[str]) -> str | None:
    """How a body is encoded, from the values of ``content-encoding``; ``None``: not at all.

    Raises:
        UnsupportedEncoding: It is not understood, or there is one on another.
    """
    codings = [word.strip().lower() for value in values for word in value.split(",")]
    if len(codings) > 1:
        raise UnsupportedEncoding("one encoding on another is not understood")
    coding = codings[0].removeprefix("x-") if codings else "identity"
    if coding == "identity":
        return None
    if coding not in CODINGS:
        raise UnsupportedEncoding(f"this content-encoding is not understood: send {ACCEPTED} or none")
    return coding


class Decoding:
    """One body on its way from ``coding`` to what it means, ``limit`` bytes at most."""

    def __init__(self, body: bytes, coding: str, limit: int) -> None:
        self._pieces: Iterator[bytes] = CODINGS[coding](body)
        self._coding = coding
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._is_given_up = False

    def give_up(self) -> None:
        """Nobody waits for it any more; ends within a step."""
        self._is_given_up = True

    def run(self, steps: int | None = None) -> bytes | None:
        """The whole body; ``None`` when it takes more ``steps``.

        Raises:
            BodyTooLarge: It becomes larger than the limit.
            BadRequest: It is damaged, cut off, or there is more behind it.
        """
        try:
            while steps is None or steps > 0:
                piece = next(self._pieces, None)
                if piece is None or self._is_given_up:
                    return b"".join(self._parts)
                self._take(piece)
                steps = None if steps is None else steps - 1
        except DAMAGED:
            raise BadRequest(f"the body is no valid {self._coding}") from None
        return None

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            raise BodyTooLarge(f"the decoded body is larger than {self._limit} bytes")
        self._parts.append(piece)


class Decoder:
    """Decodes bodies, large ones on threads. Who waits for one is a request in hand, and bounded as such."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._threads = ThreadPoolExecutor(DECODER_THREADS, thread_name_prefix="turnout-decoder")

    async def decode(self, body: bytes, coding: str) -> bytes:
        """What a body means.

        Raises:
            BodyTooLarge: It becomes larger than the limit.
            BadRequest: It is damaged, cut off, or there is more behind it.
        """
        decoding = Decoding(body, coding, self._limit)
        decoded = decoding.run(ON_LOOP_STEPS)
        if decoded is not None:
            return decoded
        try:
            decoded = await asyncio.get_running_loop().run_in_executor(self._threads, decoding.run)
        finally:
            decoding.give_up()
        assert decoded is not None
        return decoded

    def close(self) -> None:
        """Decode no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
