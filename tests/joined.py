"""A supervisor and a worker in one process and one loop: the real parts over the link within a process."""

import asyncio
from collections.abc import Sequence
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.app import Worker
from gateway.control.link import local_link
from gateway.host import Host
from gateway.metrics.block import shared_block
from gateway.settings import Settings
from routing.table import Route


class Joined:
    """Both, joined; must be made on a loop."""

    def __init__(self, settings: Settings, seeds: Sequence[Route] = ()) -> None:
        self.host = Host(settings, seeds)
        block, reader = shared_block()
        self.host.blocks.add(reader)
        up, down = local_link(asyncio.get_running_loop())
        self.worker = Worker(settings, down, block, replica_id=self.host.replica_id)
        self.worker.start()
        self.member = self.host.workers.join(0, up)

    async def spoken(self) -> None:
        """Wait until the worker has been heard."""
        self.host.workers.beat()
        while not self.member.has_spoken:
            await asyncio.sleep(0)


class Wire:
    """Stands in for a socket."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default

    def abort(self) -> None:
        """Nothing is open."""

    close = pause_reading = resume_reading = abort


def doors(worker: Any, number: int) -> list[Any]:
    """So many connections of clients, without sockets."""
    state = ServerState()
    state.default_headers = [(b"date", b"now")]
    config = Config(worker.data_app, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    made = []
    for _ in range(number):
        door = worker.data_door(config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop())
        door.connection_made(Wire())
        made.append(door)
    return made
