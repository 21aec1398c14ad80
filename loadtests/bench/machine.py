"""The laboratory: which core is whose, folders, free ports, processes that end with it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parent.parent.parent
VENVS = ROOT / ".bench"
PEERS = Path(__file__).parent / "peers"
CONFIGS = Path(__file__).parent / "configs"
LOADS = Path(__file__).parent / "loads"
NICE = -10
AUTOGROUP = Path("/proc/self/autogroup")
START_S = 60.0
STOP_S = 10.0


class Missing(Exception):
    """A peer or a tool is not installed; the message says which."""


def program(name: str, venv: str = "") -> str:
    """Where a program is: in a peer's environment, or on PATH and in ``sbin``.

    Raises:
        Missing: It is not installed.
    """
    if venv:
        found: str | None = str(VENVS / venv / "bin" / name)
        found = found if found and os.access(found, os.X_OK) else None
    else:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"{venv or name} is not installed")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes that are started inside run on one core, ahead of strangers where that is allowed."""
    before = os.sched_getaffinity(0)
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    os.sched_setaffinity(0, {core})
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(niceness, NICE))
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
        os.sched_setaffinity(0, before)


@contextmanager
def favoured() -> Iterator[None]:
    """Prefer everything that is started inside to what other sessions do, where that is allowed.

    Linux weighs sessions before processes, so that niceness alone changes nothing between two sessions. Where a
    process belongs to no session's group the kernel's file is there and empty: nothing to prefer.
    """
    try:
        _, _, before = AUTOGROUP.read_text().rpartition(" ")
        if before:
            AUTOGROUP.write_text(str(NICE))
    except OSError:
        before = ""
    if not before:
        yield
        return
    try:
        yield
    finally:
        AUTOGROUP.write_text(before)


class Lab:
    """Cores, times, a folder, and what was started; a context manager that leaves nothing behind.

    Attributes:
        sut_core: Core of the system under test.
        load_core: Core of the load generator and of upstreams.
        seconds: Length of one measured run.
        warmup_s: Load before it that does not count.
        rounds: Runs of each contender.
        repeats: Further runs of a contender in place of disturbed ones.
    """

    def __init__(self, seconds: float, rounds: int, warmup_s: float = 1.0, repeats: int = 2) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.sut_core, self.load_core = cores[0], cores[-1]
        self.seconds = seconds
        self.rounds = rounds
        self.warmup_s = warmup_s
        self.repeats = repeats
        self._stack = ExitStack()
        self._folders = 0
        self._folder = Path()

    def __enter__(self) -> "Lab":
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="turnout-bench-")))
        self._stack.enter_context(favoured())
        self._folder.chmod(0o755)  # a peer may give up root
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def folder(self, name: str) -> Path:
        """A new folder."""
        self._folders += 1
        made = self._folder / f"{self._folders}-{name}"
        made.mkdir()
        return made

    def keep(self, manager: AbstractContextManager[T]) -> T:
        """Enter it; leave it at the end."""
        return self._stack.enter_context(manager)

    def start(
        self,
        command: Sequence[str],
        core: int,
        folder: Path,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start a process on a core and wait until it is ready; its id.

        Raises:
            RuntimeError: It ended, or was not ready in time; the message holds the end of its output.
        """
        log = folder / "output.log"
        with log.open("ab") as output, on_core(core):
            process = subprocess.Popen(
                list(command),
                cwd=folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self._stack.callback(_end, process)
        deadline = time.monotonic() + START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{command[0]} did not start: {tail}")
            time.sleep(0.05)
        return process.pid


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process, then end whoever is left in its group."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(port: int, path: str) -> Callable[[], bool]:
    """A question that is true once a server answers GET with 200."""

    def ask() -> bool:
        connection = HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    return ask
