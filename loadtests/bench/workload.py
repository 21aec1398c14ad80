"""Models and requests that servers of models are compared with, and what they must answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import orjson

from loadtests.bench.peers.model import DATATYPES, DTYPES, stack
from loadtests.bench.small_model import FEATURES, write_small_model
from loadtests.bench.target import Question, WrongAnswer, ask, tensors
from tests.gateway_process import DEMO, corpus

TOLERANCE = 1e-6
CHECKED = 16
Feed = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """A model and single-row requests for it.

    Attributes:
        model: Its name.
        file: The ONNX file that every contender loads.
        inputs: Of each request, as the protocol's tensors.
    """

    model: str
    file: Path
    inputs: Sequence[list[dict[str, Any]]]

    def batched(self, rows: int) -> "Workload":
        """Requests of ``rows`` rows each."""
        count = max(1, len(self.inputs) // rows)
        return Workload(self.model, self.file, [_joined(self.inputs[n * rows : (n + 1) * rows]) for n in range(count)])

    def json_question(self, path: str = "", limit: int = 256) -> Question:
        """JSON requests."""
        bodies = [orjson.dumps({"inputs": inputs}) for inputs in self.inputs[:limit]]
        return Question(path or f"/v2/models/{self.model}/infer", bodies)

    def binary_question(self, limit: int = 256) -> Question:
        """Requests and answers with binary tensors; all JSON parts are padded to one length, which the header says."""
        parts = [_binary(inputs) for inputs in self.inputs[:limit]]
        length = max(len(head) for head, _ in parts)
        bodies = [head[:-1] + b" " * (length - len(head)) + b"}" + data for head, data in parts]
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(length)}
        return Question(f"/v2/models/{self.model}/infer", bodies, headers)

    def expected(self, n: int) -> dict[str, list[Any]]:
        """What ``session.run`` answers to a request."""
        session = _session(self.file)
        arrays = session.run(None, feed_of(self.inputs[n]))
        return {o.name: a.ravel().tolist() for o, a in zip(session.get_outputs(), arrays, strict=True)}

    def check(self, port: int, question: Question) -> None:
        """Ask the first requests and compare the answers.

        Raises:
            WrongAnswer: One is not what the model answers.
        """
        for n in range(min(CHECKED, len(question.bodies))):
            headers, content = ask(port, question, f"customer-{n}", question.bodies[n])
            length = headers.get("inference-header-content-length")
            found = _binary_tensors(content, int(length)) if length else tensors(content)
            for name, values in self.expected(n).items():
                if not _equal(found.get(name), values):
                    raise WrongAnswer(f"request {n}: {name} is {found.get(name)}, not {values}")

    def write_requests(self, path: Path) -> None:
        """One JSON document a line."""
        path.write_text("".join(json.dumps({"inputs": inputs}) + "\n" for inputs in self.inputs))


def _equal(found: list[Any] | None, values: list[Any]) -> bool:
    if found is None or len(found) != len(values):
        return False
    if isinstance(values[0], str):
        return found == values
    return bool(np.allclose(found, values, rtol=0, atol=TOLERANCE))


def feed_of(inputs: Sequence[Mapping[str, Any]]) -> Feed:
    """Arrays of a request."""
    return {t["name"]: np.array(t["data"], dtype=DTYPES[t["datatype"]]).reshape(t["shape"]) for t in inputs}


@cache
def _session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def _joined(requests: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    feed, _ = stack([feed_of(inputs) for inputs in requests])
    return [
        {"name": name, "datatype": DATATYPES[a.dtype.name], "shape": list(a.shape), "data": a.ravel().tolist()}
        for name, a in feed.items()
    ]


def _binary(inputs: Sequence[Mapping[str, Any]]) -> tuple[bytes, bytes]:
    heads, blocks = [], []
    for tensor in inputs:
        if tensor["datatype"] == "BYTES":
            texts = [text.encode() for text in tensor["data"]]
            block = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        else:
            block = np.array(tensor["data"], dtype=DTYPES[tensor["datatype"]]).tobytes()
        described = {name: tensor[name] for name in ("name", "datatype", "shape")}
        heads.append({**described, "parameters": {"binary_data_size": len(block)}})
        blocks.append(block)
    head = orjson.dumps({"parameters": {"binary_data_output": True}, "inputs": heads})
    return head, b"".join(blocks)


def _binary_tensors(content: bytes, length: int) -> dict[str, list[Any]]:
    found, at = {}, length
    for output in json.loads(content[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(content[at : at + size], DTYPES[output["datatype"]]).tolist()
        at += size
    return found


def demo(model: str, version: str) -> Workload:
    """A model of the demo with its corpus."""
    file = DEMO / "models" / model / version / "model.onnx"
    return Workload(model, file, [row["request"]["inputs"] for row in corpus(model)])


def small(folder: Path, requests: int = 256) -> Workload:
    """A gradient-boosted classifier of 20 numbers, as HTTP benchmarks of gateways like it."""
    file = folder / "small.onnx"
    write_small_model(file)
    rows = np.random.default_rng(7).normal(size=(requests, FEATURES)).astype(np.float32).round(3)
    inputs = [
        [{"name": "x", "datatype": "FP32", "shape": [1, FEATURES], "data": [round(float(v), 3) for v in row]}]
        for row in rows
    ]
    return Workload("small", file, inputs)
