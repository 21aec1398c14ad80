"""Refused log-ins, on disk as a hash chain of their own: one for each supervisor, never with the token."""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routing.document import utc
from routing.store import GENESIS_SHA256
from routing.store.history import canonical

try:
    import fcntl
except ImportError:  # not on every platform; there two supervisors must not share a folder
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("turnout.admin")

FILE_NAME = "refused_logins.jsonl"
MAX_FILE_BYTES = 1 << 20
KEPT_FILES = 4  # older ones beside the current
BURST = 100  # refusals written at once
REFILL_S = 6.0  # seconds until one more may be written
MAX_FIELD_CHARS = 200


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the chain came to. ``first_broken`` is the number of the first entry that is not what was written."""

    entries: int
    verified: bool
    first_broken: int | None
    head_sha256: str


class RefusedLogins:
    """Writes refusals off the loop, a bounded number of them in a bounded number of files; counts the rest.

    Args:
        folder: Where the files are; made when the first refusal is written. None keeps nothing.
        now: Wall clock, seconds since 1970; for the records.
        clock: Monotonic seconds; for the rate.

    Attributes:
        unwritten: Refusals beyond the rate, or that the disk refused, since the last one that was written. The next
            entry says how many.
    """

    def __init__(
        self,
        folder: Path | None,
        now: Callable[[], float],
        clock: Callable[[], float],
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        burst: int = BURST,
    ) -> None:
        self._file = folder / FILE_NAME if folder else None
        self._now = now
        self._clock = clock
        self._max_file_bytes = max_file_bytes
        self._burst = burst
        self._allowed = float(burst)
        self._refilled_s = clock()
        self._waiting: deque[dict[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self.unwritten = 0

    def note(self, details: Mapping[str, Any]) -> None:
        """Keep one refusal. Never waits."""
        if self._file is None:
            return
        if not self._may_write():
            self.unwritten += 1
            return
        short = {k: v[:MAX_FIELD_CHARS] if isinstance(v, str) else v for k, v in details.items()}
        self._waiting.append({"at": utc(self._now()), **short, "unwritten_before": self.unwritten})
        self.unwritten = 0
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._flush())

    async def flushed(self) -> None:
        """Wait until what was noted is on the disk, or was refused by it."""
        if self._task is not None:
            await self._task

    async def verify(self) -> Verdict:
        """Read the whole chain and check it, off the loop."""
        await self.flushed()
        return await asyncio.to_thread(self._verified)

    def _may_write(self) -> bool:
        now_s = self._clock()
        self._allowed = min(self._burst, self._allowed + (now_s - self._refilled_s) / REFILL_S)
        self._refilled_s = now_s
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True

    async def _flush(self) -> None:
        while self._waiting:
            batch = [*self._waiting]
            self._waiting.clear()
            try:
                await asyncio.to_thread(self._append, batch)
            except Exception as error:  # the top of a task
                self.unwritten += len(batch) + sum(entry["unwritten_before"] for entry in batch)
                log.error("refused log-ins cannot be kept", extra={"reason": str(error)})

    # The rest runs in a thread, and under the file's lock: another process may use the folder.

    def _append(self, batch: list[dict[str, Any]]) -> None:
        assert self._file is not None
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            number, head = self._head()
            lines = []
            for fields in batch:
                number += 1
                unsigned = {"number": number, **fields, "prev_sha256": head}
                head = _digest(unsigned)
                lines.append(canonical({**unsigned, "sha256": head}) + b"\n")
            self._rotate()
            with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        assert self._file is not None
        with os.fdopen(os.open(self._file.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _head(self) -> tuple[int, str]:
        """Number and hash of the newest whole entry; a line that a crash cut short is cut off."""
        for file in self._files()[::-1]:
            data = file.read_bytes()
            if file == self._file and not data.endswith(b"\n"):
                os.truncate(file, data.rfind(b"\n") + 1)
            for line in reversed(data.split(b"\n")[:-1]):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    return int(entry["number"]), str(entry["sha256"])
        return 0, GENESIS_SHA256

    def _rotate(self) -> None:
        assert self._file is not None
        if not self._file.exists() or self._file.stat().st_size < self._max_file_bytes:
            return
        for index in range(KEPT_FILES, 0, -1):
            older = self._kept(index - 1)
            if older.exists():
                older.replace(self._kept(index))

    def _kept(self, index: int) -> Path:
        assert self._file is not None
        return self._file if index == 0 else self._file.with_name(f"{FILE_NAME}.{index}")

    def _files(self) -> list[Path]:
        """Oldest first."""
        return [file for index in range(KEPT_FILES, -1, -1) if (file := self._kept(index)).exists()]

    def _verified(self) -> Verdict:
        if self._file is None or not self._file.parent.is_dir():
            return Verdict(0, verified=True, first_broken=None, head_sha256=GENESIS_SHA256)
        with self._locked():
            lines = [line for file in self._files() for line in file.read_bytes().split(b"\n") if line]
        expected: tuple[int, str] | None = None
        broken: int | None = None
        for line in lines:
            found = _sound(line)
            if found is None or (expected is not None and found[:2] != expected) or not _begins(found, expected):
                broken = broken or (expected[0] if expected else found[0] if found else 1)
            expected = (found[0] + 1, found[2]) if found else (expected[0] + 1 if expected else 2, "")
        return Verdict(len(lines), broken is None, broken, expected[1] if expected else GENESIS_SHA256)


def _digest(unsigned: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(unsigned)).hexdigest()


def _sound(line: bytes) -> tuple[int, str, str] | None:
    """Number, hash of the entry before, and own hash; None when the line is not what its hash says."""
    try:
        plain = json.loads(line)
        sha256 = plain.pop("sha256")
        return (int(plain["number"]), str(plain["prev_sha256"]), sha256) if _digest(plain) == sha256 else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _begins(found: tuple[int, str, str], expected: tuple[int, str] | None) -> bool:
    """The first entry that is kept may follow ones that were rotated away, unless it is number 1."""
    return expected is not None or found[0] > 1 or found[1] == GENESIS_SHA256
