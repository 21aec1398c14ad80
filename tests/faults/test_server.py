import socket
import subprocess
import sys
import time
from http.client import HTTPConnection

import pytest

from tests.faults import ROOT, FaultBackend

STARTER = """
import time
from tests.faults import FaultBackend
faults = FaultBackend()
faults.start()
print(faults.port, flush=True)
time.sleep(60)
"""


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_the_server_ends_with_the_process_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        port = int(starter.stdout.readline())
        assert is_open(port)
        starter.kill()
    end_s = time.monotonic() + 5
    while is_open(port):
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_it_refuses_and_comes_back_on_the_same_port() -> None:
    with FaultBackend() as faults:
        assert is_open(faults.port)
        faults.set("refuse")
        assert not is_open(faults.port)
        faults.set("ok")
        assert is_open(faults.port)
        faults.pause()
        faults.resume()
        faults.kill()
        assert not is_open(faults.port)
        faults.start()
        assert faults.counts()["requests"] == 0
        faults.pause()  # stop() must cope with that


def test_an_unknown_mode_is_an_error() -> None:
    with FaultBackend() as faults, pytest.raises(ValueError, match="explode"):
        faults.set("explode")


def test_only_requests_with_the_key_get_the_fault() -> None:
    def status(body: str) -> int:
        connection = HTTPConnection("127.0.0.1", faults.port, timeout=5)
        try:
            connection.request("POST", "/v2/models/credit/infer", body)
            return connection.getresponse().status
        finally:
            connection.close()

    tensor = '{"name":"numeric","shape":[1,7],"datatype":"FP32","data":[0,0,0,0,0,0,0]}'
    with FaultBackend() as faults:
        faults.set("error_500", key="poison")
        assert status(f'{{"inputs":[{tensor}]}}') == 200
        assert status(f'{{"id":"poison","inputs":[{tensor}]}}') == 500
        assert faults.counts()["by_mode"] == {"ok": 1, "error_500": 1}
