"""A real gateway in its own process, on free loopback ports, and a client that keeps what it saw."""

import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "configs" / "demo"
SECRET = "a-secret-for-tests-only-0123456789abcdef"
START_S = 60.0


class Answered:
    """One answer as a client saw it."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, seconds: float) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.seconds = seconds

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def version(self) -> str | None:
        return self.headers.get("x-turnout-version")

    @property
    def role(self) -> str | None:
        return self.headers.get("x-turnout-role")


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        self._headers = dict(headers or {})

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answered:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        begin = time.perf_counter()
        self._connection.request(method, path, data, {**self._headers, **(headers or {})})
        response = self._connection.getresponse()
        raw = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answered(response.status, found, raw, time.perf_counter() - begin)

    def infer(
        self, model: str, body: Any, key: str | None = None, version: str | None = None, **headers: str
    ) -> Answered:
        place = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        keyed = {"x-customer-id": key} if key else {}
        return self.send("POST", place, body, {**keyed, **{k.replace("_", "-"): v for k, v in headers.items()}})

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GatewayProcess:
    """``turnout serve`` with its own folders; a context manager that leaves nothing behind."""

    def __init__(
        self,
        folder: Path,
        *,
        routes: Sequence[Mapping[str, Any]] = (),
        models: Path | None = DEMO / "models",
        settings: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._env = dict(env or {})
        (folder / "routes").mkdir(parents=True, exist_ok=True)
        for route in routes:
            (folder / "routes" / f"{route['model']}.yaml").write_text(yaml.safe_dump(dict(route)))
        digest = hashlib.sha256(SECRET.encode()).hexdigest()
        plain: dict[str, Any] = {
            # A spare worker costs a second of processor time: only tests of workers have one.
            "server": {"listen": "127.0.0.1:0", "spare_worker": False},
            "admin": {"listen": "127.0.0.1:0", "tokens": [{"name": "tester", "role": "admin", "sha256": digest}]},
            "models": {"dir": str(models)} if models else {},
            "routes": {"dir": "routes"},
            "state_dir": str(folder / "state"),
        }
        for section, values in (settings or {}).items():
            plain[section] = {**plain.get(section, {}), **values} if isinstance(values, Mapping) else values
        self.config = folder / "gateway.yaml"
        self.config.write_text(yaml.safe_dump(plain))
        self.output: list[str] = []
        self.errors = folder / "errors.log"
        self.data_port = self.admin_port = self.metrics_port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> "GatewayProcess":
        with self.errors.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", "--config", str(self.config)],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self._env},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.data_port = self.admin_port = 0
        lines: SimpleQueue[str] = SimpleQueue()
        stdout = self._process.stdout
        assert stdout is not None

        def forward() -> None:
            for line in stdout:
                lines.put(line)
            lines.put("")

        threading.Thread(target=forward, daemon=True).start()
        deadline = time.monotonic() + START_S
        while not self.admin_port:
            try:
                line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                self.kill()  # nobody else would
                raise
            if not line:
                raise AssertionError(f"the gateway did not start: {self.errors.read_text()[-2000:]}")
            self.output.append(line)
            if match := re.search(r"(data|admin|metrics) +http://[^:]+:(\d+)/", line):
                setattr(self, f"{match[1]}_port", int(match[2]))
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def worker_pids(self) -> list[int]:
        """Processes that serve, by slot."""
        return [worker["pid"] for worker in self.overview()["workers"]]

    def overview(self) -> Any:
        with self.admin() as admin:
            return admin.send("GET", "/admin/v1/status").json()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 20.0) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the gateway did not stop: {self.errors.read_text()[-2000:]}") from None
        finally:
            if self._process.stdout:
                self._process.stdout.close()

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "GatewayProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def client(self) -> Client:
        return Client(self.data_port)

    def admin(self) -> Client:
        return Client(self.admin_port, {"authorization": f"Bearer {SECRET}"})

    def document(self, model: str) -> Any:
        with self.admin() as admin:
            return admin.send("GET", f"/admin/v1/routes/{model}").json()

    def status(self, model: str) -> Any:
        with self.admin() as admin:
            return admin.send("GET", f"/admin/v1/routes/{model}/status").json()

    def arm(self, model: str, version: str) -> Any:
        return next(v for v in self.status(model)["variants"] if v["version"] == version)

    def edit(self, model: str, patch: Mapping[str, Any]) -> Answered:
        """PATCH the route on whatever revision it has now."""
        with self.admin() as admin:
            etag = admin.send("GET", f"/admin/v1/routes/{model}").headers["etag"]
            return admin.send("PATCH", f"/admin/v1/routes/{model}", dict(patch), {"if-match": etag})


def eventually(condition: Any, timeout_s: float = 10.0, what: str = "the condition") -> Any:
    """Poll until ``condition()`` is true; its value."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.01)


def corpus(model: str) -> list[dict[str, Any]]:
    """Request lines with golden answers."""
    with (DEMO / "requests" / f"{model}.jsonl").open() as lines:
        return [json.loads(line) for line in lines]


def stacked(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One request of several corpus rows."""
    requests = [row["request"] for row in rows]
    inputs = []
    for index, first in enumerate(requests[0]["inputs"]):
        data = [value for request in requests for value in request["inputs"][index]["data"]]
        inputs.append({**first, "shape": [len(rows), *first["shape"][1:]], "data": data})
    return {"inputs": inputs}


def storm(port: int, send: Any, *, requests: int, clients: int = 8, rate: float | None = None) -> list[Answered]:
    """``send(client, n)`` for every ``n`` over several connections, as fast as they go or at ``rate`` a second."""
    answers: list[Answered | None] = [None] * requests
    failures: list[BaseException] = []
    numbers = iter(range(requests))
    lock = threading.Lock()
    begin = time.perf_counter()

    def work() -> None:
        with Client(port) as client:
            while True:
                with lock:
                    n = next(numbers, None)
                if n is None:
                    return
                if rate is not None:
                    time.sleep(max(0.0, begin + n / rate - time.perf_counter()))
                try:
                    answers[n] = send(client, n)
                except BaseException as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [answer for answer in answers if answer is not None]


def statuses(answers: Sequence[Answered]) -> Counter[int]:
    return Counter(answer.status for answer in answers)
