"""A real Prometheus and promtool of the tests' own: from PATH, else Debian's package, unpacked beside the tree.

``python -m tests.prometheus_server`` fetches them and says where they are.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tests.ports import free_port

TOOLS = Path(__file__).parent.parent / ".tools"
START_TIMEOUT_S = 15.0


class Unobtainable(Exception):
    """There is no such program here and no package manager that has it."""


def binary(name: str) -> str:
    """``prometheus`` or ``promtool``.

    Raises:
        Unobtainable: It is not on PATH, and this is no Debian.
        RuntimeError: It could not be fetched.
    """
    if found := shutil.which(name):
        return found
    unpacked = TOOLS / "usr" / "bin" / name
    if not unpacked.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Unobtainable(f"{name} is not on PATH, and there is no apt-get to fetch it with")
        _fetch()
    return str(unpacked)


def _fetch() -> None:
    """Debian's package, without installing it: needs no root where the package lists are there."""
    with tempfile.TemporaryDirectory(prefix="turnout-prometheus-") as folder:
        get = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "prometheus"]
        done = subprocess.run(get, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode and os.geteuid() == 0:
            subprocess.run(["apt-get", "-qq", "update"], capture_output=True, check=False, timeout=300)
            done = subprocess.run(get, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        packages = list(Path(folder).glob("prometheus_*.deb"))
        if not packages:
            raise RuntimeError(f"Debian's prometheus cannot be fetched; put it on PATH: {done.stderr.strip()}")
        fresh = Path(folder) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(fresh)], check=True, timeout=300)
        for name in ("prometheus", "promtool"):
            target = TOOLS / "usr" / "bin" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{name}.{os.getpid()}")
            shutil.copy2(fresh / "usr" / "bin" / name, beside)
            beside.replace(target)  # two test runs may do this at the same time


def check_metrics(text: bytes) -> str:
    """What ``promtool check metrics`` has to say; empty when nothing."""
    done = subprocess.run(
        [binary("promtool"), "check", "metrics"], input=text, capture_output=True, check=False, timeout=30
    )
    said = (done.stdout + done.stderr).decode()
    return said if done.returncode or said.strip() else ""


class PrometheusServer:
    """Scrapes one target every ``interval_ms``; a context manager that leaves nothing behind."""

    def __init__(self, port: int, *, token: str | None = None, interval_ms: int = 200) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="turnout-prometheus-", ignore_cleanup_errors=True)
        job: dict[str, Any] = {"job_name": "turnout", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        if token is not None:
            job["authorization"] = {"credentials": token}
        timing = {"scrape_interval": f"{interval_ms}ms", "scrape_timeout": f"{interval_ms}ms"}
        config = Path(self._folder.name) / "prometheus.yml"
        config.write_text(yaml.safe_dump({"global": timing, "scrape_configs": [job]}))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    f"--web.console.templates={folder}",
                    f"--web.console.libraries={folder}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
        self._folder.cleanup()

    def get(self, path: str, **query: str) -> Any:
        """The ``data`` of an API's answer."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Values of an instant query by their labels, job and instance left out."""
        found = {}
        for sample in self.get("query", query=expression)["result"]:
            labels: Mapping[str, str] = sample["metric"]
            key = tuple(sorted((k, v) for k, v in labels.items() if k not in {"__name__", "job", "instance"}))
            found[key] = float(sample["value"][1])
        return found

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{binary('prometheus')}\n{binary('promtool')}\n")
    except Unobtainable as absent:
        sys.stdout.write(f"{absent}: the tests that need it are skipped\n")
