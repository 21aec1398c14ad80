"""Answers that came by gRPC, in the form that the client asked for over HTTP: JSON, binary tensors, or both."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from gateway.protocol.binary import strings_of
from gateway.protocol.form import InferRequest
from gateway.protocol.grpc_infer import InferAnswer, OutputTensor
from gateway.protocol.protobuf import Bytes, Unreadable
from gateway.protocol.response import Body, NotText, json_data
from gateway.protocol.shapes import DTYPES, ELEMENT_BYTES, element_count

OPENINGS_KEPT = 256  # descriptions of outputs that a version keeps


class GrpcAnswerWriter:
    """Writes the answers of one version.

    Args:
        model: Name in the answers.
        version: The same.
    """

    def __init__(self, model: str, version: str) -> None:
        self._plain = orjson.dumps({"model_name": model, "model_version": version})[:-1]
        self._openings: dict[tuple[str, str, tuple[int, ...], int], bytes] = {}

    def write(self, request: InferRequest, answer: InferAnswer) -> Body:
        """The body of an answer.

        Raises:
            Unreadable: An output whose data are not what its shape and datatype say, or have no JSON form.
            NotFinite: A NaN or an infinity in JSON, and the request does not allow it.
            NotText: Bytes in JSON that are no UTF-8.
        """
        parts = [self._plain]
        if request.id is not None:
            parts.append(b',"id":' + orjson.dumps(request.id))
        if answer.parameters:
            parts.append(b',"parameters":' + orjson.dumps(answer.parameters))
        parts.append(b',"outputs":[')
        tail: list[Bytes] = []
        is_binary = False
        form = request.form
        for index, output in enumerate(answer.outputs):
            _check(output)
            if index:
                parts.append(b",")
            wants_binary = form.binary if form.outputs is None or output.name not in form.outputs else None
            if wants_binary or (wants_binary is None and form.is_binary(output.name)):
                is_binary = True
                tail.append(output.data)
                parts.append(self._opening(output, len(output.data)))
            else:
                parts += (self._opening(output, -1), _json(output, request), b"}")
        parts.append(b"]}")
        if not is_binary:
            return b"".join(parts), None
        return b"".join((*parts, *tail)), sum(map(len, parts))

    def _opening(self, output: OutputTensor, binary_bytes: int) -> bytes:
        """An output in JSON: up to its data, or all of it where the data are in the binary part."""
        if output.parameters:
            return _opening(output, binary_bytes, output.parameters)
        place = output.name, output.datatype, output.shape, binary_bytes
        opening = self._openings.get(place)
        if opening is None:
            opening = _opening(output, binary_bytes, {})
            is_usual = output.datatype != "BYTES" or binary_bytes < 0  # strings in binary form have any size
            if is_usual and len(self._openings) < OPENINGS_KEPT:
                self._openings[place] = opening
        return opening


def _opening(output: OutputTensor, binary_bytes: int, parameters: Mapping[str, Any]) -> bytes:
    plain: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
    said = dict(parameters) if binary_bytes < 0 else {**parameters, "binary_data_size": binary_bytes}
    if said:
        plain["parameters"] = said
    text = orjson.dumps(plain)
    return text if binary_bytes >= 0 else text[:-1] + b',"data":'


def _check(output: OutputTensor) -> None:
    item_bytes = ELEMENT_BYTES.get(output.datatype, 0)
    if item_bytes and element_count(output.shape) * item_bytes != len(output.data):
        raise Unreadable(
            f"sent {len(output.data)} bytes for output {output.name!r}, "
            f"shape {list(output.shape)} of {output.datatype} has {element_count(output.shape) * item_bytes}"
        )


def _json(output: OutputTensor, request: InferRequest) -> bytes:
    if output.datatype == "BYTES":
        found = strings_of(output.data, element_count(output.shape))
        if found is None:
            raise Unreadable(f"sent output {output.name!r} with bytes that are not as many strings as its shape says")
        try:
            return orjson.dumps(list(map(bytes.decode, found)))
        except UnicodeDecodeError:
            raise NotText from None
    if output.datatype == "FP16" or output.datatype not in DTYPES:
        raise Unreadable(f"sent output {output.name!r} as {output.datatype}, which has no JSON form")
    numbers = np.frombuffer(output.data, DTYPES[output.datatype])
    if output.datatype == "FP32":  # written as exactly as Triton's HTTP port does
        numbers = numbers.astype(np.float64)
    return json_data(output.name, numbers, request)
