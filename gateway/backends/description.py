"""What versions take and answer before anybody serves them: asked at their servers, or read from their files."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
from pydantic import TypeAdapter

from gateway.backends.base import Backend
from gateway.backends.onnx import give_way_to_the_loop
from gateway.backends.onnx_session import CannotLoad, OnnxSession
from gateway.backends.registry import BackendKey
from gateway.protocol.metadata import as_plain
from gateway.protocol.shapes import Signature
from routing.table import BackendSpec, RemoteSpec

DESCRIBE_S = 1.5  # for all that an edit asks for: connecting, the question and the wait for a turn together
DESCRIBED_AT_ONCE = 8
READ_BYTES = 64 << 20  # of a model's folder; what is larger takes too long to look into
SPECS: TypeAdapter[BackendSpec] = TypeAdapter(BackendSpec)

Plain = list[tuple[str, str, dict[str, object]]]


class Describer:
    """Finds out what versions are, and keeps nothing of them open.

    Args:
        make: Makes a backend that nobody else has.
        file_of: Where the file of a model's version is.
    """

    def __init__(self, make: Callable[[BackendKey], Backend], file_of: Callable[[str, str], Path]) -> None:
        self._make = make
        self._file_of = file_of
        self._turn = asyncio.Semaphore(DESCRIBED_AT_ONCE)
        self._reader = ThreadPoolExecutor(1, "onnx-describe", initializer=give_way_to_the_loop)

    async def describe(self, model: str, wanted: bytes) -> Plain:
        """Describe versions, given as JSON pairs of version and backend; without those that cannot be now."""
        pairs = [(str(version), str(spec)) for version, spec in orjson.loads(wanted)]
        keys = [BackendKey(model, version, SPECS.validate_json(spec)) for version, spec in pairs]
        found = await asyncio.gather(*(self._described(key) for key in keys))
        return [(*pair, as_plain(its)) for pair, its in zip(pairs, found, strict=True) if its is not None]

    def close(self) -> None:
        """Read no more files."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _described(self, key: BackendKey) -> Signature | None:
        try:
            async with asyncio.timeout(DESCRIBE_S), self._turn:
                if isinstance(key.spec, RemoteSpec):
                    return await self._asked(key)
                return await self._read(key)
        except TimeoutError:
            return None

    async def _asked(self, key: BackendKey) -> Signature | None:
        """What the first of its servers says that is ready."""
        backend = self._make(key)
        try:
            await backend.open()
            return backend.signature
        finally:
            await backend.close()

    async def _read(self, key: BackendKey) -> Signature | None:
        """What its file says. A read that is late ends in its thread; nobody waits for it."""
        file = self._file_of(key.model, key.version)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, _signature, file)


def _signature(file: Path) -> Signature | None:
    try:
        if sum(part.stat().st_size for part in file.parent.iterdir() if part.is_file()) > READ_BYTES:
            return None
        return OnnxSession(file, device="cpu", threads=1).signature
    except (OSError, CannotLoad):
        return None
