"""A model server in a process of its own that fails on command."""

import json
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.model import label_of, probability_of

__all__ = ["FaultBackend", "label_of", "probability_of"]

ROOT = Path(__file__).parent.parent.parent
CONTROL_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0


class FaultBackend:
    """Starts the server, steers it, and leaves nothing behind.

    Args:
        model: Name that the server gives the model.
        version: Name that it gives the version.
    """

    def __init__(self, model: str = "credit", version: str = "1") -> None:
        self.model = model
        self.version = version
        self.port = 0
        self._control_port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; after ``kill`` or ``stop`` it comes back on the same ports, healthy."""
        command = [sys.executable, "-m", "tests.faults.server", "--model", self.model, "--version", self.version]
        command += ["--port", str(self.port), "--control-port", str(self._control_port)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.port = self._read_port("listening on 127.0.0.1:")
        self._control_port = self._read_port("control on 127.0.0.1:")

    def _read_port(self, words: str) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(words):
            self.stop()
            raise RuntimeError(f"the fault server said {line!r}")
        return int(line.removeprefix(words))

    def set(
        self,
        mode: str = "ok",
        *,
        share: float = 1.0,
        delay_ms: float = 0,
        ok_delay_ms: float = 0,
        seed: int = 0,
        key: str | None = None,
    ) -> None:
        """Replace the behaviour; returns when it is in force. ``ok_delay_ms`` slows the requests that get no fault."""
        wanted = {"mode": mode, "share": share, "delay_ms": delay_ms, "ok_delay_ms": ok_delay_ms}
        self._ask("POST", json.dumps({**wanted, "seed": seed, "key": key}))

    def counts(self) -> dict[str, Any]:
        """``by_mode``, ``requests``, ``probes``, ``in_flight``, ``most_in_flight``, ``connections``, ``mode``."""
        return self._ask("GET")

    def _ask(self, verb: str, body: str | None = None) -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self._control_port, timeout=CONTROL_TIMEOUT_S)
        try:
            connection.request(verb, "/faults", body)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["error"])
        return answer

    def pause(self) -> None:
        """Freeze the process: its kernel still accepts connections, nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once, as the kernel would."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """End the process; it may be paused or dead already."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None
