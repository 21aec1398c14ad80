"""The disk copy: the table as last seen and the lowers the store has not heard of, for a start without the store."""

import asyncio
import base64
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from gateway.control.messages import Lowered

FILE_NAME = "table.json"


@dataclass(slots=True)
class Table:
    """What one replica knows.

    Attributes:
        store_id: The store it was read from.
        documents: Revision and stored bytes by model.
        lowers: Not yet in the store, by model and version.
    """

    store_id: str = ""
    documents: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    lowers: dict[tuple[str, str], Lowered] = field(default_factory=dict)


class DiskCopy:
    """Keeps the newest table in one file, replaced whole; ``None`` as folder keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = asyncio.Lock()

    def read(self) -> Table | None:
        """The table of an earlier run; ``None`` when there is none that can be read."""
        if self._folder is None:
            return None
        try:
            plain = orjson.loads((self._folder / FILE_NAME).read_bytes())
            documents = {
                model: (int(revision), base64.b64decode(data)) for model, (revision, data) in plain["documents"].items()
            }
            lowers = [Lowered(**lower) for lower in plain["lowers"]]
            return Table(str(plain["store_id"]), documents, {(low.model, low.version): low for low in lowers})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    async def write(self, table: Table) -> None:
        """Replace the file, off the loop; returns when the bytes are on the disk.

        Raises:
            OSError: The disk refuses.
        """
        if self._folder is None:
            return
        plain = {
            "store_id": table.store_id,
            "documents": {m: (r, base64.b64encode(data).decode()) for m, (r, data) in table.documents.items()},
            "lowers": [asdict(lower) for lower in table.lowers.values()],
        }
        data = orjson.dumps(plain)
        async with self._lock:
            await asyncio.to_thread(replace_file, self._folder / FILE_NAME, data)


def replace_file(path: Path, data: bytes) -> None:
    """Put a file in the place of another one, whole or not at all; on the disk when this returns.

    Raises:
        OSError: The disk refuses.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
