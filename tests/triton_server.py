"""A real Triton, where there is one: ``tritonserver`` on PATH, with its python backend.

Where it needs more than a model repository and ports (library paths, ``--backend-directory``), PATH may name a script
that adds them. ``TRITON_SITE_PACKAGES`` is a folder with numpy 1 for the Python of its backend, if that has none.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Self

TRITON = shutil.which("tritonserver")
START_S = 30.0
STOP_S = 10.0
CONFIG = """
name: "{model}"
backend: "python"
max_batch_size: 0
version_policy: {{ all {{}} }}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ -1, 4 ] }} ]
"""
MODEL = """
import sys
sys.path[:0] = {site!r}
import numpy
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        found = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [triton.InferenceResponse([triton.Tensor("y", x * numpy.float32({version}))]) for x in found]
"""


class TritonServer:
    """Serves a model whose versions multiply by their own number, over HTTP on a free loopback port."""

    def __init__(self, folder: Path, model: str, versions: tuple[int, ...]) -> None:
        self._folder = folder
        site = os.environ.get("TRITON_SITE_PACKAGES")
        for version in versions:
            place = folder / "repository" / model / str(version)
            place.mkdir(parents=True)
            (place / "model.py").write_text(MODEL.format(site=[site] if site else [], version=version))
        (folder / "repository" / model / "config.pbtxt").write_text(CONFIG.format(model=model))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

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
        """Start it; after ``stop`` it comes back on the same port."""
        assert TRITON is not None
        log = (self._folder / "triton.log").open("ab")
        command = [TRITON, "--model-repository", str(self._folder / "repository"), "--http-address", "127.0.0.1"]
        command += ["--http-port", str(self.port), "--allow-grpc", "false", "--allow-metrics", "false"]
        command += ["--exit-timeout-secs", "2"]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        log.close()
        end_s = time.monotonic() + START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end_s:
                self.stop()
                raise RuntimeError((self._folder / "triton.log").read_text()[-4000:])
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End it and what it started."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None
