"""A real Triton of the tests' own: the server in the wheel that ``make test`` unpacks into ``.tools/triton``.

Its python backend runs models in a process that embeds the Python of these tests, so that has to be one with a shared
library, and numpy 1 beside it.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.ports import free_ports

PACKAGES = Path(__file__).parent.parent / ".tools" / "triton"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"libpython{PYTHON}.so.1.0"
START_S = 30.0
PORTS = ("http", "grpc", "metrics")

CONFIG = """
name: "{model}"
backend: "python"
max_batch_size: 0
version_policy: {{ all {{}} }}
input [
  {{ name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }},
  {{ name: "s" data_type: TYPE_STRING dims: [ -1 ] optional: true }}
]
output [
  {{ name: "y" data_type: TYPE_FP32 dims: [ -1, 4 ] }},
  {{ name: "t" data_type: TYPE_STRING dims: [ -1 ] }}
]
instance_group [ {{ count: {count} kind: KIND_CPU }} ]
{more}
"""
# ``y`` is ``x`` times the version, ``t`` is ``s``. A first element of -1 fails, one of -1000 or less sleeps for as many
# milliseconds and writes down whether somebody gave the request up.
MODEL = """
import sys, time
sys.path.insert(0, {packages!r})
import numpy
import triton_python_backend_utils as triton

from tests.ports import free_ports

FACTOR, NOTES = numpy.float32({version}), {notes!r}


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = triton.get_input_tensor_by_name(request, "x").as_numpy()
        s = triton.get_input_tensor_by_name(request, "s")
        first = x.flat[0] if x.size else 0
        if first == -1:
            return triton.InferenceResponse([], triton.TritonError("the model was told to fail"))
        end = time.monotonic() + (-first / 1000 if first <= -1000 else 0)
        while time.monotonic() < end:
            if request.is_cancelled():
                with open(NOTES, "a") as notes:
                    notes.write("cancelled\\n")
                return triton.InferenceResponse([], triton.TritonError("cancelled", triton.TritonError.CANCELLED))
            time.sleep(0.005)
        words = s.as_numpy() if s is not None else numpy.array([b"none"], dtype=numpy.object_)
        return triton.InferenceResponse([triton.Tensor("y", x * FACTOR), triton.Tensor("t", words)])
"""


def missing() -> str:
    """Why there can be no Triton here, as a sentence; empty when there can."""
    if not (PACKAGES / "pytriton" / "tritonserver" / "bin" / "tritonserver").exists():
        return f"no Triton in {PACKAGES}: `make test` installs it where the package index has it"
    if not (PACKAGES / "pytriton" / "tritonserver" / "python_backend_stubs" / PYTHON).exists():
        return f"this Triton has no python backend for Python {PYTHON}"
    try:
        ctypes.CDLL(str(library()))
    except OSError as problem:
        return f"Triton's python backend needs {LIBRARY}: {problem}"
    return ""


def library() -> Path:
    """The shared library of this Python, or its bare name where the loader may know it."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    return folder / LIBRARY if (folder / LIBRARY).exists() else Path(LIBRARY)


class TritonServer:
    """Serves a model whose versions multiply by their own number, on free loopback ports.

    Args:
        folder: Its own; the repository is in there.
        model: Name of the model.
        versions: Of the model.
        explicit: Versions are loaded and unloaded through the repository API; none is at first.
        instances: Copies of each version that run at a time.
        more: Further lines of the model's configuration.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        versions: tuple[int, ...],
        *,
        explicit: bool = False,
        instances: int = 1,
        more: str = "",
    ) -> None:
        self._folder = folder
        self._explicit = explicit
        self.notes = folder / "notes.txt"
        self._config = {"count": instances, "more": more}
        self.add_model(model, versions)
        self._ports = free_ports(len(PORTS))
        self._shared = f"turnout-tests-{os.getpid()}-{self._ports[0]}-"
        self._process: subprocess.Popen[bytes] | None = None

    def add_model(self, model: str, versions: tuple[int, ...], *, text: str = MODEL) -> None:
        """Put a model into the repository, or another one in its place."""
        for version in versions:
            place = self._folder / "repository" / model / str(version)
            place.mkdir(parents=True, exist_ok=True)
            found = text.format(packages=str(PACKAGES), version=version, notes=str(self.notes))
            (place / "model.py").write_text(found)
        config = CONFIG.format(model=model, **self._config)
        (self._folder / "repository" / model / "config.pbtxt").write_text(config)

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def grpc_url(self) -> str:
        return f"grpc://127.0.0.1:{self._ports[1]}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; after ``stop`` or ``kill`` it comes back on the same ports."""
        log = (self._folder / "triton.log").open("ab")
        self._process = subprocess.Popen(
            self._command(), stdout=log, stderr=log, env=self._environment(), start_new_session=True
        )
        log.close()
        end_s = time.monotonic() + START_S
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > end_s:
                self.stop()
                raise RuntimeError((self._folder / "triton.log").read_text()[-4000:])
            time.sleep(0.02)

    def _command(self) -> list[str]:
        server = PACKAGES / "pytriton" / "tritonserver"
        backend = self._folder / "backends" / "python"
        if not backend.exists():
            shutil.copytree(server / "backends" / "python", backend)
            shutil.copy(server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub", backend)
            (backend / "triton_python_backend_stub").chmod(0o755)
        binary = server / "bin" / "tritonserver"
        if not os.access(binary, os.X_OK):
            binary.chmod(0o755)
        command = [str(binary), "--model-repository", str(self._folder / "repository")]
        command += ["--backend-directory", str(backend.parent), "--allow-gpu-metrics=false", "--exit-timeout-secs", "2"]
        for service, port in zip(PORTS, self._ports, strict=True):
            command += [f"--{service}-address", "127.0.0.1", f"--{service}-port", str(port)]
        command += ["--backend-config", f"python,shm-region-prefix-name={self._shared}"]
        if self._explicit:
            command += ["--model-control-mode", "explicit"]
        return command

    @staticmethod
    def _environment() -> dict[str, str]:
        folders = [str(PACKAGES / "nvidia_pytriton.libs")]
        if library().is_absolute():
            folders.append(str(library().parent))
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(folders)}

    def _is_up(self) -> bool:
        try:
            return self.get("/v2/health/ready")[0] == 200
        except OSError:
            return False

    def get(self, path: str, *, body: bytes | None = None) -> tuple[int, bytes]:
        """Ask Triton itself; with a body it is a POST."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET" if body is None else "POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def index(self) -> Any:
        """Every version that it knows, as its repository index has them."""
        return json.loads(self.get("/v2/repository/index", body=b"{}")[1])

    def kill(self) -> None:
        """End it and its backends at once."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """To it and its backends; after one that kills it is gone."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        if number is signal.SIGKILL:
            self._process.wait()
            self._process = None
            for left in Path("/dev/shm").glob(f"{self._shared}*"):
                left.unlink(missing_ok=True)

    def stop(self) -> None:
        """End it if it runs. Its polite end takes seconds, and nobody here needs it."""
        if self._process is not None:
            self.kill()
