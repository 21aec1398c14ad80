"""The JSON part of an inference request, held to the protocol."""

from typing import Any

import orjson

from gateway.errors import BadRequest
from gateway.protocol.form import Form, InputTensor
from gateway.protocol.shapes import ELEMENT_BYTES, MAX_ELEMENTS, MAX_RANK

MAX_TENSORS = 256
MAX_DEPTH = 100  # of brackets within brackets
_NESTS = frozenset({dict, list})
_INTEGER = frozenset({int})
_OBJECT = frozenset({dict})


def read_head(text: bytes) -> Form:
    """Read the JSON part of a request, which is all of it or stands before binary tensors.

    Raises:
        BadRequest: It is none; the sentence says where.
    """
    plain = read_object(text)
    identifier = plain.get("id")
    if identifier is not None and type(identifier) is not str:
        raise BadRequest("`id` is not a string")
    parameters: dict[str, Any] = {}
    if "parameters" in plain:
        parameters = _parameters(plain, "the request")
        _flag(parameters, "binary_data_output", "the request")
    sizes: list[tuple[str, int]] = []
    # One letter is found ten times as fast as a word: `l` of false, and a `u` of true behind the one of "inputs".
    may_hold_booleans = b"l" in text or text.find(b"u", text.find(b"u") + 1) != -1
    inputs = _inputs(plain, sizes, may_hold_booleans=may_hold_booleans)
    outputs = _outputs(plain["outputs"]) if "outputs" in plain else None
    return Form(parameters, inputs, outputs, id=identifier, sizes=sizes)


def read_object(text: bytes) -> dict[str, Any]:
    """Decode a JSON object of bounded depth.

    Raises:
        BadRequest: It is something else.
    """
    try:
        plain = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is no valid JSON: {error}") from None
    if not isinstance(plain, dict):
        raise BadRequest("the body is not a JSON object")
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _is_deep(plain):
        raise BadRequest(f"the JSON is nested more than {MAX_DEPTH} deep")
    return plain


def _is_deep(plain: dict[str, Any]) -> bool:
    level: list[Any] = [plain]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            children = node.values() if type(node) is dict else node
            if not _NESTS.isdisjoint(map(type, children)):
                below += [child for child in children if type(child) in _NESTS]
        if not below:
            return False
        level = below
    return True


def _inputs(plain: dict[str, Any], sizes: list[tuple[str, int]], *, may_hold_booleans: bool) -> dict[str, InputTensor]:
    raw_inputs = _objects(plain.get("inputs"), "inputs")
    if not raw_inputs:
        raise BadRequest("`inputs` is missing or empty")
    inputs: dict[str, InputTensor] = {}
    for item in raw_inputs:
        tensor = _input(item, sizes, may_hold_booleans=may_hold_booleans)
        if tensor.name in inputs:
            raise BadRequest(f"input {tensor.name!r} is given twice")
        inputs[tensor.name] = tensor
    return inputs


def _objects(value: Any, key: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if type(value) is not list or not _OBJECT.issuperset(map(type, value)):
        raise BadRequest(f"`{key}` is not a list of objects")
    if len(value) > MAX_TENSORS:
        raise BadRequest(f"`{key}` has {len(value)} entries, {MAX_TENSORS} at most")
    return value


def _parameters(plain: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = plain.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"`parameters` of {where} is not an object")
    if "shared_memory_region" in parameters:
        raise BadRequest(f"{where} names a shared memory region, which this gateway does not offer")
    return parameters


def _flag(parameters: dict[str, Any], key: str, where: str) -> None:
    if not isinstance(parameters.get(key, False), bool):
        raise BadRequest(f"`{key}` of {where} is neither true nor false")


def _name(item: dict[str, Any], what: str) -> str:
    name = item.get("name")
    if type(name) is not str or not name:
        raise BadRequest(f"an {what} has no `name`")
    return name


def _input(item: dict[str, Any], sizes: list[tuple[str, int]], *, may_hold_booleans: bool) -> InputTensor:
    name = _name(item, "input")
    datatype = item.get("datatype")
    if type(datatype) is not str or datatype not in ELEMENT_BYTES:
        raise BadRequest(f"input {name!r} has datatype {datatype!r}; one of {', '.join(ELEMENT_BYTES)} is expected")
    if "parameters" in item:
        parameters = _parameters(item, f"input {name!r}")
        if "binary_data_size" in parameters:
            sizes.append((name, _binary_size(parameters["binary_data_size"], item, name)))
            return InputTensor(name, datatype, read_shape(item.get("shape"), name), None)
    if datatype == "FP16":
        raise BadRequest(
            f"input {name!r}: FP16 has no JSON form, send it as binary tensor data (`binary_data_size`) or as FP32"
        )
    if "data" not in item:
        raise BadRequest(f"input {name!r} has no `data`")
    shape = read_shape(item.get("shape"), name)
    return InputTensor(name, datatype, shape, item["data"], may_hold_booleans=may_hold_booleans)


def _binary_size(size: Any, item: dict[str, Any], name: str) -> int:
    if type(size) is not int or size < 0:
        raise BadRequest(f"input {name!r} has a binary_data_size of {size!r}, which is no number of bytes")
    if "data" in item:
        raise BadRequest(f"input {name!r} has both `data` and binary data")
    return size


def read_shape(shape: Any, name: str) -> tuple[int, ...]:
    """Check a concrete shape.

    Raises:
        BadRequest: It is no list of sizes, or its elements are too many to be real.
    """
    if type(shape) is list and len(shape) <= MAX_RANK:
        count = 1
        for size in shape:
            if type(size) is not int or not 0 <= size <= MAX_ELEMENTS:
                break
            count *= size
        else:
            if count <= MAX_ELEMENTS:
                return tuple(shape)
    raise _no_shape(shape, name)


def _no_shape(shape: Any, name: str) -> BadRequest:
    if type(shape) is not list or not _INTEGER.issuperset(map(type, shape)):
        return BadRequest(f"input {name!r} has no `shape` that is a list of integers")
    if len(shape) > MAX_RANK:
        return BadRequest(f"input {name!r} has {len(shape)} dimensions, {MAX_RANK} at most")
    if min(shape, default=0) < 0:
        return BadRequest(f"input {name!r} has a negative dimension in shape {shape}")
    return BadRequest(f"input {name!r} has shape {shape}: more than {MAX_ELEMENTS} elements")


def _outputs(value: Any) -> dict[str, dict[str, Any]] | None:
    if value is None:
        return None
    outputs: dict[str, dict[str, Any]] = {}
    for item in _objects(value, "outputs"):
        name = _name(item, "output")
        parameters = _parameters(item, f"output {name!r}")
        _flag(parameters, "binary_data", f"output {name!r}")
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise BadRequest(f"`classification` of output {name!r} is {classes!r}, which is no number of classes")
        if name in outputs:
            raise BadRequest(f"output {name!r} is asked for twice")
        outputs[name] = parameters
    return outputs or None
