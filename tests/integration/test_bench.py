"""The benchmark's arithmetic, its tables and its parts that need no peer; none of it starts a load."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from loadtests.bench.cpu import busy_ns, cpu_ns, memory_bytes, tree
from loadtests.bench.machine import PEERS, Lab, Missing, free_port, program
from loadtests.bench.measure import FOREIGN_CORES, Run, Summary, calmest, interleave, summarise
from loadtests.bench.openloop import requests_of
from loadtests.bench.openloop import run as run_openloop
from loadtests.bench.readme import README, markdown, newest, update
from loadtests.bench.report import Outcome, as_json, show, verdicts
from loadtests.bench.row import Figure, Goal
from loadtests.bench.rows import ROWS
from loadtests.bench.rows.proxy import contenders
from loadtests.bench.servers import triton_config
from loadtests.bench.target import Load, Question, Target, WrongAnswer, tensors
from loadtests.bench.templates import ENVOY_CLUSTER, ENVOY_MIRROR, MIRROR_LOCATION, MIRROR_ON, fill, render
from loadtests.bench.upstream import ANSWER_BYTES, ARMS, EXPECTED, answer_of, request_body
from loadtests.bench.workload import Workload, demo, small
from loadtests.bench.wrk import parse, write_bodies
from tests.gateway_process import ROOT


def a_run(contender: str = "turnout", **changes: float) -> Run:
    plain: dict[str, float] = {
        "requests": 1000,
        "ok": 1000,
        "seconds": 1.0,
        "p50_us": 500,
        "p99_us": 900,
        "cpu_ns": 20_000_000,
        "foreign_cores": 0.0,
        "rss_bytes": 100e6,
        "largest_rss_bytes": 90e6,
    }
    return Run(contender=contender, **{**plain, **changes})  # type: ignore[arg-type]


def a_target(name: str = "turnout", pid: int = 0) -> Target:
    return Target(name, "1.0", pid, lambda seconds: Load(10, 10, seconds, 1, 2))


def a_summary(name: str, cpu_us: float, **changes: float) -> Summary:
    run = a_run(name, cpu_ns=cpu_us * 1000 * 1000, **changes)
    return summarise(a_target(name), [run], 1)


# Loads.


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


# Medians and ratios.


def test_cpu_a_request_counts_good_answers_alone() -> None:
    run = a_run(requests=1000, ok=500, cpu_ns=10_000_000, seconds=2.0)

    assert run.cpu_us == 20.0
    assert run.busy_share == 0.005


def test_the_calmest_runs_count_and_their_median_is_taken() -> None:
    runs = [a_run(cpu_ns=n * 1_000_000, foreign_cores=f) for n, f in ((10, 0.0), (30, 0.1), (20, 0.05), (99, 0.9))]

    found = summarise(a_target(), runs, 3)

    assert [run.cpu_us for run in calmest(runs, 3)] == [10, 20, 30]
    assert found.cpu_us == 20.0
    assert found.rps_per_core == 50_000
    assert found.disturbed == 0


def test_a_summary_says_how_many_of_its_runs_were_disturbed_and_failed() -> None:
    runs = [a_run(foreign_cores=FOREIGN_CORES + 0.1), a_run(ok=990)]

    found = summarise(a_target(), runs, 2)

    assert (found.disturbed, found.failed) == (1, 10)


def test_runs_take_turns_and_whoever_was_disturbed_runs_again_a_bounded_number_of_times() -> None:
    noisy = {"a": 0.9, "b": 0.0}
    lab = Lab(seconds=1, rounds=2, repeats=1)

    def run(target: Target, _seconds: float) -> Run:
        return a_run(target.name, foreign_cores=noisy[target.name])

    pid = 2**22 + 1  # nobody's
    runs = interleave(lab, [a_target("a", pid), a_target("b", pid)], lambda _: None, run)

    assert [run.contender for run in runs] == ["a", "b", "a", "b", "a"]


def test_goals_are_ratios_of_ours_to_theirs() -> None:
    goals = [Goal("nginx", 1.1), Goal("nginx", 0.5, "rps_per_core", at_least=True), Goal("envoy", 0.45)]
    outcome = Outcome("proxy", "", [a_summary("turnout", 22), a_summary("nginx", 20)], goals=goals)

    cpu, rps, missing = verdicts(outcome)

    assert (round(cpu.ratio, 6), cpu.met) == (1.1, True)
    assert (round(rps.ratio, 3), rps.met) == (0.909, True)
    assert missing.met is None
    assert missing.sentence == "turnout cpu_us / envoy <= 0.45: not measured"


def test_a_figure_without_a_value_misses_its_limit() -> None:
    assert Figure("x", 2.0, 1.5).sentence == "x <= 1.5: 2, MISSED"
    assert Figure("x", float("nan"), 1.5).sentence.endswith("MISSED")


# What is printed and kept.


def an_outcome() -> Outcome:
    return Outcome(
        "latency-400",
        "what",
        [
            a_summary("direct", 5, p50_us=300, p99_us=600),
            a_summary("turnout", 20, p50_us=400, p99_us=1600, foreign_cores=0.5),
            a_summary("nginx", 30, p50_us=350, p99_us=700, rss_bytes=25e6),
        ],
        missing={"envoy": "envoy is not installed"},
        goals=[Goal("nginx", 1.0)],
        runs=[a_run()],
    )


def test_the_table_names_ratios_what_is_added_what_is_missing_and_what_was_disturbed() -> None:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show(an_outcome(), console)
    lines = {line.split()[1]: line for line in console.export_text().splitlines() if line.startswith("│")}

    assert "1.50" in lines["nginx"], "30 µs beside turnout's 20"
    assert "+0.050" in lines["nginx"]
    assert "+0.100" in lines["turnout"]
    assert "+1.000" in lines["turnout"]
    assert "0.25" in lines["nginx"], "memory beside turnout's"
    assert "1 of 1 disturbed" in lines["turnout"]
    assert "missing" in lines["envoy"]
    assert "envoy is not installed" in lines["envoy"]


def test_the_raw_result_says_machine_versions_date_and_every_run() -> None:
    raw = json.loads(json.dumps(as_json(an_outcome(), "python -m loadtests.bench latency-400", "abc")))

    assert {"machine", "versions", "date", "commit", "command", "runs", "summaries", "missing"} <= set(raw)
    assert raw["goals"][0]["met"] is True
    assert raw["summaries"][2]["version"] == "1.0"


def test_whoever_is_not_installed_is_missing() -> None:
    with pytest.raises(Missing, match="no-such-program is not installed"):
        program("no-such-program")
    with pytest.raises(Missing, match="no-such-peer is not installed"):
        program("python", "no-such-peer")


# Configurations.


def test_every_configuration_renders_without_a_hole() -> None:
    ports = {"PORT": 1, "STABLE_PORT": 2, "CANARY_PORT": 3, "SHADOW_PORT": 4, "FOLDER": "/tmp/x"}
    mirror = {"MIRROR_ON": MIRROR_ON, "MIRROR_LOCATION": MIRROR_LOCATION, "MIRROR": ENVOY_MIRROR}
    clusters = "".join(fill(ENVOY_CLUSTER, NAME=arm, PORT=1) for arm in ARMS)
    for name in ("nginx.conf", "haproxy.cfg", "envoy.yaml", "upstream.conf"):
        text = render(name, **ports, **mirror, CLUSTERS=clusters, SERVERS="")
        settings = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        assert not re.search("@[A-Z_]+@", settings), name


def test_a_hole_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill("listen @PORT@;")


@pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="no nginx here")
def test_the_proxies_that_are_installed_do_what_the_row_says() -> None:
    """Split, stickiness, copies and answers are checked before anything is measured."""
    with Lab(seconds=1, rounds=1) as lab:
        target = contenders("nginx", mirror=True)["nginx"](lab)
        assert re.fullmatch(r"canary \d\.\d%", target.note)


def test_the_upstream_s_answers_are_200_bytes_and_equal_but_for_the_version() -> None:
    for version in ARMS.values():
        assert len(answer_of(version)) == ANSWER_BYTES
        assert tensors(answer_of(version)) == EXPECTED
    assert 180 <= len(request_body()) <= 240


def test_requirements_of_peers_are_pinned_and_name_no_registry() -> None:
    files = sorted(PEERS.glob("*.txt"))

    assert [file.stem for file in files] == ["bentoml", "envoy", "fastapi", "litserve", "mlserver", "triton"]
    for file in files:
        for line in file.read_text().splitlines():
            assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line), f"{file.name}: {line}"


def test_triton_s_configuration_describes_the_model_with_and_without_batching() -> None:
    work = Workload("m", Path("m.onnx"), [[{"name": "x", "datatype": "FP32", "shape": [1, 20], "data": [0.0] * 20}]])

    assert "dims: [-1, 20]" in triton_config(work, 0)
    assert "dims: [20]" in triton_config(work, 64)
    assert "dynamic_batching" in triton_config(work, 64)


# Work that is compared is the same work.


def test_the_small_model_is_the_same_each_time_and_tells_rows_apart(tmp_path: Path) -> None:
    work = small(tmp_path, requests=8)
    first = work.file.read_bytes()
    small(tmp_path, requests=8)

    assert work.file.read_bytes() == first
    session = onnxruntime.InferenceSession(str(work.file), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]
    shares = [work.expected(n)["probabilities"][1] for n in range(8)]
    assert all(0.01 < share < 0.99 for share in shares)
    assert len(set(shares)) == 8


def test_batched_requests_hold_the_same_rows() -> None:
    single = demo("credit", "2")
    batched = single.batched(4)

    alone = np.concatenate([single.expected(n)["probabilities"] for n in range(4)])
    assert np.allclose(alone, batched.expected(0)["probabilities"], atol=1e-6)


def test_binary_requests_have_one_length_of_json() -> None:
    asked = demo("credit", "2").binary_question(limit=20)
    length = int(asked.headers["inference-header-content-length"])

    heads = [json.loads(body[:length]) for body in asked.bodies]
    sizes = [sum(tensor["parameters"]["binary_data_size"] for tensor in head["inputs"]) for head in heads]
    assert [len(body) - length for body in asked.bodies] == sizes


class WrongServer(threading.Thread):
    """Answers everything with the same body."""

    def __init__(self, status: str, body: bytes) -> None:
        super().__init__(daemon=True)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._answer = head.encode() + body

    def run(self) -> None:
        connection = self._server.accept()[0]
        connection.recv(65536)
        connection.sendall(self._answer)
        connection.close()
        self._server.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 Oh", b'{"error": "x"}'),
        ("200 OK", b'{"detail": "x"}'),
        ("200 OK", b'{"outputs": [{"name": "probabilities", "data": [0.5, 0.5]}, {"name": "label", "data": [1]}]}'),
    ],
)
def test_a_contender_that_answers_otherwise_is_not_measured(status: str, body: bytes) -> None:
    server = WrongServer(status, body)
    server.start()
    work = demo("credit", "2")

    with pytest.raises(WrongAnswer):
        work.check(server.port, work.json_question())


def test_every_row_of_the_table_is_there_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.bench", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == list(ROWS)
    wanted = (
        "proxy proxy-varied-heads mirror split-envoy model-json model-triton model-throughput rows64-binary sentiment "
        "triton-front latency-400 many-models pipeline-cost shadow-hung rss"
    )
    assert set(wanted.split()) <= set(ROWS)
    for name, contest in ROWS.items():
        assert contest().name == name


def test_free_ports_are_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


# The README.


def test_the_readme_s_table_comes_from_the_newest_raw_results(tmp_path: Path) -> None:
    for day, cpu_us in (("2026-01-01", 99.0), ("2026-01-02", 20.0)):
        outcome = Outcome(
            "proxy", "", [a_summary("turnout", cpu_us), a_summary("nginx", 16)], goals=[Goal("nginx", 1.1)]
        )
        outcome.figures = [Figure("added, µs", 1.25, 1.5), Figure("no limit", 3.0)]
        (tmp_path / f"{day}-bench-proxy.json").write_text(json.dumps(as_json(outcome, "", "")))

    table = markdown(newest(tmp_path).values())

    assert table.splitlines()[2:] == [
        "| `proxy` | CPU / nginx | 20.0 µs | 16.0 µs | 1.25 | ≤ 1.1 |",
        "| `proxy` | added, µs | 1.25 | | | ≤ 1.5 |",
    ]
    assert update("a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n", "new\n") == (
        "a\n<!-- bench -->\nnew\n<!-- /bench -->\nb\n"
    )


def test_the_readme_has_a_place_for_the_table() -> None:
    text = README.read_text()

    assert update(text, "x\n") != text
