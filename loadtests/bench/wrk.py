"""wrk as a load generator: one thread, keep-alive, a closed loop of so many connections."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from loadtests.bench.machine import LOADS, Lab, on_core, program
from loadtests.bench.target import Load, Question

CONNECTIONS = 64
MARK = "report "
PATIENCE_S = 30.0


def parse(output: str) -> Load:
    """What the scripts in ``loads`` report.

    Raises:
        ValueError: There is no report.
    """
    line = next((line for line in output.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise ValueError(f"wrk reported nothing: {output[-500:]}")
    found = json.loads(line.removeprefix(MARK))
    ok = found["requests"] - found["not_ok"]
    return Load(
        found["requests"] + found["socket_errors"], ok, found["microseconds"] / 1e6, found["p50_us"], found["p99_us"]
    )


def write_bodies(path: Path, question: Question) -> None:
    """The file that the scripts read: before each body its length and a newline."""
    path.write_bytes(b"".join(b"%d\n" % len(body) + body for body in question.bodies))


def driver(lab: Lab, port: int, question: Question, connections: int = CONNECTIONS) -> Callable[[float], Load]:
    """A function that runs wrk against a port for so many seconds."""
    bodies = lab.folder("load") / "bodies"
    write_bodies(bodies, question)
    script = "varied.lua" if question.varied else "customers.lua"
    headers = [f"{name}: {value}" for name, value in question.headers.items()]

    def drive(seconds: float) -> Load:
        command = [program("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
        command += ["-s", script, f"http://127.0.0.1:{port}", "--", question.path, str(bodies), *headers]
        with on_core(lab.load_core):
            done = subprocess.run(
                command, cwd=LOADS, capture_output=True, text=True, check=True, timeout=seconds + PATIENCE_S
            )
        return parse(done.stdout)

    return drive
