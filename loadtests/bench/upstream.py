"""The fixed upstream: nginx that answers from memory as three versions of one model."""

import time
from dataclasses import dataclass, field
from urllib.request import urlopen

import orjson

from loadtests.bench.machine import Lab, answers, free_port, program
from loadtests.bench.target import Question, WrongAnswer, ask, tensors
from loadtests.bench.templates import write

MODEL = "credit-like"
ARMS = {"stable": "1", "canary": "2", "shadow": "3"}
ANSWER_BYTES = 200
FEATURES = 20
SIGNATURE = {
    "name": MODEL,
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]}],
    "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    ],
}
EXPECTED = {"label": [0], "probabilities": [0.9314, 0.0686]}
CUSTOMERS = 400
COPIED = 50
MIRROR_S = 5.0


def answer_of(version: str) -> bytes:
    """What a version answers: 200 bytes."""
    outputs = [
        {"name": "label", "datatype": "INT64", "shape": [1], "data": EXPECTED["label"]},
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": EXPECTED["probabilities"]},
    ]
    plain = orjson.dumps({"model_name": MODEL, "model_version": version, "outputs": outputs})
    return plain[:-1] + b" " * (ANSWER_BYTES - len(plain)) + b"}"


def request_body(rows: int = 1) -> bytes:
    """Credit-like: rows of 20 numbers."""
    data = [round(1.2345 + 0.0713 * (n % 17), 4) for n in range(rows * FEATURES)]
    return orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, FEATURES], "data": data}]})


def question(*, varied: bool = False) -> Question:
    """What every proxy is asked: one row."""
    return Question(f"/v2/models/{MODEL}/infer", [request_body()], varied=varied)


@dataclass(frozen=True, slots=True)
class Upstream:
    """Ports of the versions, and the process; ``questions`` counts how often it was asked how much it has done."""

    stable: int
    canary: int
    shadow: int
    pid: int
    questions: list[None] = field(default_factory=list)


def _server(port: int, version: str) -> str:
    ready = orjson.dumps({"name": MODEL, "ready": True}).decode()
    metadata = orjson.dumps({**SIGNATURE, "versions": [version]}).decode()
    lines = [f"    server {{ listen 127.0.0.1:{port};", "        location = /handled { stub_status; }"]
    for path in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/{version}"):
        lines.append(f"        location = {path}/infer {{ return 200 '{answer_of(version).decode()}'; }}")
        lines.append(f"        location = {path}/ready {{ return 200 '{ready}'; }}")
        lines.append(f"        location = {path} {{ return 200 '{metadata}'; }}")
    return "\n".join([*lines, "    }"])


def start_upstream(lab: Lab) -> Upstream:
    """Start it on the load generator's core."""
    folder = lab.folder("upstream")
    ports = {arm: free_port() for arm in ARMS}
    servers = "\n".join(_server(ports[arm], version) for arm, version in ARMS.items())
    path = write(folder, "upstream.conf", FOLDER=folder, SERVERS=servers)
    command = [program("nginx"), "-p", str(folder), "-c", str(path), "-e", str(folder / "error.log")]
    pid = lab.start(command, lab.load_core, folder, answers(ports["stable"], f"/v2/models/{MODEL}/ready"))
    return Upstream(**ports, pid=pid)


def check_split(port: int, asked: Question) -> float:
    """Ask for many customers, twice each; the canary's share.

    Raises:
        WrongAnswer: An answer is wrong, a customer changed sides, or the split is far from 95/5.
    """
    canaries = 0
    for customer in range(CUSTOMERS):
        versions = {_version(port, asked, f"customer-{customer}") for _ in range(2)}
        if len(versions) > 1:
            raise WrongAnswer(f"customer {customer} got {sorted(versions)}")
        canaries += versions == {ARMS["canary"]}
    share = canaries / CUSTOMERS
    if not 0.015 <= share <= 0.12:
        raise WrongAnswer(f"{share:.1%} of the customers got the canary, not about 5 %")
    return share


def check_mirror(port: int, upstream: Upstream, asked: Question) -> None:
    """Ask for some customers, and see that the upstream was asked twice for each.

    Raises:
        WrongAnswer: It was not.
    """
    before = handled(upstream)
    for customer in range(COPIED):
        ask(port, asked, f"customer-{customer}", asked.bodies[0])
    end_s = time.monotonic() + MIRROR_S
    while (found := handled(upstream) - before) < 2 * COPIED:
        if time.monotonic() > end_s:
            raise WrongAnswer(f"{COPIED} requests gave {found} at the upstream, not {2 * COPIED}")
        time.sleep(0.05)


def handled(upstream: Upstream) -> int:
    """Requests that the upstream has had, but for those of this function."""
    with urlopen(f"http://127.0.0.1:{upstream.stable}/handled", timeout=5) as answer:
        numbers = answer.read().split()
    upstream.questions.append(None)
    return int(numbers[9]) - len(upstream.questions)


def _version(port: int, asked: Question, customer: str) -> str:
    _, content = ask(port, asked, customer, asked.bodies[0])
    if tensors(content) != EXPECTED:
        raise WrongAnswer(f"{content!r} is not what the upstream answers")
    return str(orjson.loads(content)["model_version"])
