"""One gateway of the fleet: its processes can be stopped and killed, and what it serves can be read."""

import hashlib
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.ledger import Death
from tests.gateway_process import SECRET, Answered, Client, GatewayProcess

ADMIN_TIMEOUT_S = 6.0
ESTABLISHED, CLOSE_WAIT = "01", "08"


class Replica(GatewayProcess):
    """A gateway on ports that stay the same over restarts.

    Attributes:
        number: Its place in the fleet.
        is_up: Nobody killed it, or it was started again.
    """

    number = 0
    is_up = False

    def start(self) -> "Replica":
        super().start()
        self.is_up = True
        return self

    def kill(self) -> None:
        self.is_up = False
        super().kill()

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answered | None:
        """Of the admin plane; ``None``: no answer came."""
        try:
            with Client(self.admin_port, {"authorization": f"Bearer {SECRET}"}, ADMIN_TIMEOUT_S) as admin:
                return admin.send(method, f"/admin/v1{path}", body, headers)
        except (OSError, http.client.HTTPException):
            return None

    def read(self, path: str) -> Any:
        """What a ``GET`` says; ``None`` when it is not answered with 200."""
        answer = self.ask("GET", path)
        return answer.json() if answer is not None and answer.status == 200 else None

    def copy(self, model: str) -> tuple[int, str]:
        """Revision and digest of the document in its disk copy."""
        try:
            revision, data = json.loads((self.folder / "state" / "table.json").read_text())["documents"][model]
        except (OSError, ValueError, KeyError):
            return 0, ""
        return int(revision), hashlib.sha256(data.encode()).hexdigest()[:12]

    def children(self) -> list[int]:
        """Its workers and the spare one."""
        task = Path(f"/proc/{self.pid}/task")
        try:
            return [int(pid) for thread in task.iterdir() for pid in (thread / "children").read_text().split()]
        except OSError:
            return []

    # Deaths.

    def kill_worker(self, slot: int) -> Death:
        """SIGKILL to one worker, and which connections were on it."""
        return self._kill([self.worker_pids[slot]], Death(self.number, time.monotonic(), frozenset()))

    def stop_worker(self, slot: int) -> int:
        """SIGSTOP to one worker; its pid."""
        pid = self.worker_pids[slot]
        _signal(pid, signal.SIGSTOP)
        return pid

    def wake_worker(self, pid: int) -> None:
        """SIGCONT."""
        _signal(pid, signal.SIGCONT)

    def bury_worker(self, pid: int) -> Death:
        """The connections of a stopped worker, which its supervisor will end."""
        return Death(self.number, time.monotonic(), self._ports_of(pid))

    def kill_supervisor(self) -> Death:
        """SIGKILL to the supervisor; its workers finish what is in work and end."""
        death = Death(self.number, time.monotonic())
        self.kill()
        return death

    def kill_all(self) -> Death:
        """SIGKILL to every process, as when the machine dies."""
        death = Death(self.number, time.monotonic())
        pids = self.children()
        self.kill()
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        return death

    def stop_all(self, number: signal.Signals) -> None:
        """SIGSTOP or SIGCONT to every process."""
        for pid in [self.pid, *self.children()]:
            _signal(pid, number)

    def _kill(self, pids: list[int], death: Death) -> Death:
        ports = frozenset[int]()
        for pid in pids:
            _signal(pid, signal.SIGSTOP)  # so that it takes no more between the look and the end
            ports |= self._ports_of(pid)
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        return Death(death.replica, death.at_s, ports)

    def _ports_of(self, pid: int) -> frozenset[int]:
        """Of clients that are connected to a process."""
        held = set()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)):
                    held.add(match[1])
            except OSError:
                continue
        found = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, *_, inode = line.split()[:10]
            if state in (ESTABLISHED, CLOSE_WAIT) and inode in held and int(local.split(":")[1], 16) == self.data_port:
                found.add(int(remote.split(":")[1], 16))
        return frozenset(found)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
