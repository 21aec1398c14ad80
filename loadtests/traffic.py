"""Starts generators and reads back what clients saw. No gevent here: the generator is a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadtests.plan import Plan
from loadtests.samples import Sample, from_columns

ROOT = Path(__file__).parent.parent
END_GRACE_S = 90.0


class Traffic:
    """One generator; a context manager that leaves no process behind.

    Attributes:
        begin_at: Wall clock at which the traffic began.
        statistics: What locust counted, by name.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.begin_at = 0.0
        self.statistics: list[dict[str, Any]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="turnout-load-")
        self._out = Path(self._folder.name) / "samples.json"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "loadtests.generator", str(self._out)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(self.plan.encode())
        self._process.stdin.close()
        line = self._process.stdout.readline()
        if not line.startswith("begin "):
            self._end()
            raise RuntimeError(f"the generator did not begin: {line!r}")
        self.begin_at = float(line.removeprefix("begin "))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def samples(self) -> list[Sample]:
        """Wait for the end of the traffic.

        Raises:
            RuntimeError: The generator failed.
        """
        status = self._process.wait(self.plan.seconds + END_GRACE_S)
        if status:
            raise RuntimeError(f"the generator ended with status {status}")
        plain = json.loads(self._out.read_text())
        self.statistics = plain["locust"]
        return from_columns(plain["samples"])

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._folder.cleanup()


def send(plan: Plan) -> list[Sample]:
    """Run a plan and wait for it."""
    with Traffic(plan) as traffic:
        return traffic.samples()
