"""A supervisor and a worker in one process and one loop: the real parts over the link within a process."""

import asyncio
from collections.abc import Sequence

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
