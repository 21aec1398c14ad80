"""Load generators, and what processes cost."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loadtests.bench.cpu import busy_ns, cpu_ns, memory_bytes, tree
from loadtests.bench.openloop import requests_of
from loadtests.bench.openloop import run as run_openloop
from loadtests.bench.target import Load, Question
from loadtests.bench.wrk import parse, write_bodies


def test_wrk_s_report_is_read_and_only_200s_count() -> None:
    text = (
        "Running 2s test @ http://127.0.0.1:1\n  Non-2xx or 3xx responses: 7\n"
        'report {"requests": 100, "microseconds": 200000, "not_ok": 7, "socket_errors": 2, "p50_us": 11, "p99_us": 9}\n'
    )

    assert parse(text) == Load(requests=102, ok=93, seconds=0.2, p50_us=11, p99_us=9)


def test_a_run_of_wrk_without_a_report_is_an_error() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_bodies_are_written_with_their_lengths(tmp_path: Path) -> None:
    write_bodies(tmp_path / "bodies", Question("/", [b"ab\n", b"", b"c"]))

    assert (tmp_path / "bodies").read_bytes() == b"3\nab\n0\n1\nc"


def test_the_open_loop_counts_from_when_a_request_was_due() -> None:
    """A server that sleeps before its first answer delays those that were due meanwhile."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection = server.accept()[0]
        time.sleep(0.2)
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    [request] = requests_of(Question("/x", [b"{}"]), customers=1)
    found = run_openloop(server.getsockname()[1], [request], [0.0, 0.1], connections=1)
    server.close()

    took_us = found["took_us"]
    assert isinstance(took_us, list)
    assert len(took_us) == 2
    assert took_us[0] > 150_000
    assert took_us[1] > 50_000, "the second waited for the only connection, and that counts"


# What processes cost.


def test_a_process_s_cpu_time_counts_its_threads_and_children() -> None:
    code = (
        "import subprocess, sys, threading, time\n"
        "def burn():\n"
        "    end = time.thread_time() + 0.1\n"
        "    while time.thread_time() < end: pass\n"
        "t = threading.Thread(target=burn); t.start(); t.join()\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time\\nwhile time.process_time() < 0.15: pass\\n"
        "print(flush=True)\\ntime.sleep(60)'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print('done', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = tree(process.pid)
        spent_s = cpu_ns(pids) / 1e9
        memory = memory_bytes(pids)
        os.killpg(process.pid, 9)

    assert len(pids) == 2
    assert spent_s > 0.24, "an ended thread and a child are part of it"
    assert len(memory) == 2
    assert memory[0] >= memory[1] > 1_000_000


def test_the_machine_s_busy_time_goes_forward() -> None:
    before = busy_ns()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass

    assert busy_ns() > before
