"""The model behind the fault server: a few lines of arithmetic whose answers a test can work out itself."""

import json
import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NUMERIC = 7
CATEGORICAL = 11


def probability_of(row: Sequence[float]) -> float:
    """Probability of label 1 for one row of ``numeric``: a steep curve over the sum, rounded."""
    total = max(-50.0, min(50.0, sum(row)))
    return round(1 / (1 + math.exp(-total)), 6)


def label_of(row: Sequence[float]) -> int:
    return int(probability_of(row) > 0.5)


def metadata_of(model: str, version: str) -> dict[str, Any]:
    return {
        "name": model,
        "versions": [version],
        "platform": "fault_server",
        "inputs": [
            {"name": "numeric", "datatype": "FP32", "shape": [-1, NUMERIC]},
            {"name": "categorical", "datatype": "BYTES", "shape": [-1, CATEGORICAL]},
        ],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        ],
    }


@dataclass
class Request:
    """The part of an inference request that the answer depends on."""

    rows: list[list[float]]
    id: str | None
    requested: list[str]
    wants_binary: bool

    @classmethod
    def parse(cls, body: bytes, header_length: int | None) -> "Request":
        document = json.loads(body if header_length is None else body[:header_length])
        at = len(body) if header_length is None else header_length
        values: list[float] | None = None
        for tensor in document["inputs"]:
            size = tensor.get("parameters", {}).get("binary_data_size")
            if tensor["name"] == "numeric":
                values = numbers(body[at : at + size]) if size is not None else flat(tensor["data"])
            at += size or 0
        if values is None or len(values) % NUMERIC:
            raise ValueError("input 'numeric' is missing or not of shape [-1, 7]")
        rows = [values[i : i + NUMERIC] for i in range(0, len(values), NUMERIC)]
        requested = [output["name"] for output in document.get("outputs", [])]
        wants_binary = bool(document.get("parameters", {}).get("binary_data_output", False))
        return cls(rows, document.get("id"), requested, wants_binary)


def numbers(data: bytes) -> list[float]:
    values = array("f")
    values.frombytes(data)
    return list(values)


def flat(data: list[Any]) -> list[float]:
    return [x for row in data for x in flat(row)] if data and isinstance(data[0], list) else data


def answer_of(request: Request, model: str, version: str, mode: str = "ok") -> tuple[bytes, int | None]:
    """Body and, when binary, the length of its JSON part; ``mode`` may spoil it."""
    labels = [label_of(row) for row in request.rows]
    chances = [p for row in request.rows for p in (round(1 - probability_of(row), 6), probability_of(row))]
    rows = len(request.rows)
    outputs: list[dict[str, Any]] = [
        {"name": "label", "datatype": "INT64", "shape": [rows], "data": labels},
        {"name": "probabilities", "datatype": "FP32", "shape": [rows, 2], "data": chances},
    ]
    match mode:
        case "wrong_shape":
            outputs[1]["shape"] = [rows, 3]
        case "wrong_name":
            outputs[0]["name"] = "lable"
        case "wrong_datatype":
            outputs[0]["datatype"] = "INT32"
        case "nan":
            outputs[1]["data"] = [math.nan] * len(chances)
    if request.requested:
        outputs = [output for output in outputs if output["name"] in request.requested]
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        answer["id"] = request.id
    answer["outputs"] = outputs
    if not request.wants_binary:
        return json.dumps(answer).encode(), None
    tail = b""
    for output in outputs:
        code = "q" if output["name"] != "probabilities" else "f"
        data = output.pop("data")
        packed = struct.pack(f"<{len(data)}{code}", *data)
        output["parameters"] = {"binary_data_size": len(packed)}
        tail += packed
    head = json.dumps(answer).encode()
    return head + tail, len(head)
