"""An inference request, read into tensors that are not yet bound to a version's signature."""

from typing import Any

import orjson

from gateway.errors import BadRequest
from gateway.protocol.shapes import ELEMENT_BYTES, MAX_ELEMENTS, MAX_RANK, element_count

MAX_TENSORS = 256
MAX_DEPTH = 100  # of brackets within brackets
ALLOW_NAN = "allow_nan"  # request parameter: answer NaN and infinities in the `NaN`/`Infinity` spelling
_NESTS = frozenset({dict, list})


class InputTensor:
    """One input as the client sent it.

    Attributes:
        data: A flat or nested JSON list, or a ``memoryview`` of the part of the body that holds the binary form.
    """

    __slots__ = ("data", "datatype", "name", "shape")

    def __init__(self, name: str, datatype: str, shape: tuple[int, ...], data: Any) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.data = data


class InferRequest:
    """A request of the protocol.

    Attributes:
        id: The client's, to be echoed, or ``None``.
        parameters: Of the request.
        inputs: By name, in the client's order.
        outputs: Names asked for with the parameters of each, ``None`` for all.
        binary: Whether outputs go out in binary form where they do not say themselves.
        raw: The whole body of a raw request, which is its one input; then ``inputs`` is empty.
    """

    __slots__ = ("binary", "id", "inputs", "outputs", "parameters", "raw")

    def __init__(
        self,
        id: str | None,
        parameters: dict[str, Any],
        inputs: dict[str, InputTensor],
        outputs: dict[str, dict[str, Any]] | None,
        *,
        raw: memoryview | None = None,
    ) -> None:
        self.id = id
        self.parameters = parameters
        self.inputs = inputs
        self.outputs = outputs
        self.raw = raw
        self.binary = raw is not None or parameters.get("binary_data_output") is True

    @property
    def allow_nan(self) -> bool:
        """Whether NaN and infinities may go out in JSON."""
        return self.parameters.get(ALLOW_NAN) is True

    def is_binary(self, output: str) -> bool:
        """Whether an output goes out in binary form."""
        said = self.outputs[output].get("binary_data") if self.outputs else None
        return self.binary if said is None else bool(said)

    def classes(self, output: str) -> int:
        """How many classes of an output are asked for instead of its tensor; 0 for the tensor."""
        return int(self.outputs[output].get("classification", 0)) if self.outputs else 0


def read_request(body: bytes, header_length: int | None = None) -> InferRequest:
    """Read a request.

    Args:
        body: The whole body.
        header_length: Length of the JSON part when binary tensors follow it, ``None`` when all is JSON. 0 makes it a
            raw request: the body is the one input, and all outputs go out in binary form.

    Raises:
        BadRequest: It is no inference request; the sentence says where.
    """
    if header_length == 0:
        return InferRequest(None, {}, {}, None, raw=memoryview(body))
    plain = read_object(body if header_length is None else body[:header_length])
    identifier = plain.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise BadRequest("`id` is not a string")
    parameters = _parameters(plain, "the request")
    _flag(parameters, "binary_data_output", "the request")
    tail = _Tail(body, header_length)
    inputs = _inputs(plain, tail)
    if tail.at != len(body):
        raise BadRequest(f"{len(body) - tail.at} bytes follow the JSON part that no input describes")
    return InferRequest(identifier, parameters, inputs, _outputs(plain.get("outputs")))


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


class _Tail:
    """The binary part of a body, handed out in the order of the inputs."""

    __slots__ = ("at", "body", "is_there")

    def __init__(self, body: bytes, header_length: int | None) -> None:
        self.body = body
        self.is_there = header_length is not None
        self.at = len(body) if header_length is None else header_length

    def take(self, name: str, size: Any) -> memoryview:
        if type(size) is not int or size < 0:
            raise BadRequest(f"input {name!r} has a binary_data_size of {size!r}, which is no number of bytes")
        if size and not self.is_there:
            raise BadRequest(
                f"input {name!r} announces binary data, but no Inference-Header-Content-Length header says where it is"
            )
        if size > len(self.body) - self.at:
            raise BadRequest(f"input {name!r} announces {size} bytes, {len(self.body) - self.at} are left of the body")
        begin, self.at = self.at, self.at + size
        return memoryview(self.body)[begin : self.at]


def _inputs(plain: dict[str, Any], tail: _Tail) -> dict[str, InputTensor]:
    raw_inputs = _objects(plain.get("inputs"), "inputs")
    if not raw_inputs:
        raise BadRequest("`inputs` is missing or empty")
    inputs: dict[str, InputTensor] = {}
    for item in raw_inputs:
        tensor = _input(item, tail)
        if tensor.name in inputs:
            raise BadRequest(f"input {tensor.name!r} is given twice")
        inputs[tensor.name] = tensor
    return inputs


def _objects(value: Any, key: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
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
    if not isinstance(name, str) or not name:
        raise BadRequest(f"an {what} has no `name`")
    return name


def _input(item: dict[str, Any], tail: _Tail) -> InputTensor:
    name = _name(item, "input")
    datatype = item.get("datatype")
    if not isinstance(datatype, str) or datatype not in ELEMENT_BYTES:
        raise BadRequest(f"input {name!r} has datatype {datatype!r}; one of {', '.join(ELEMENT_BYTES)} is expected")
    parameters = _parameters(item, f"input {name!r}")
    if "binary_data_size" in parameters:
        return _binary_input(item, name, datatype, tail.take(name, parameters["binary_data_size"]))
    if datatype == "FP16":
        raise BadRequest(
            f"input {name!r}: FP16 has no JSON form, send it as binary tensor data (`binary_data_size`) or as FP32"
        )
    if "data" not in item:
        raise BadRequest(f"input {name!r} has no `data`")
    return InputTensor(name, datatype, read_shape(item.get("shape"), name), item["data"])


def _binary_input(item: dict[str, Any], name: str, datatype: str, data: memoryview) -> InputTensor:
    if "data" in item:
        raise BadRequest(f"input {name!r} has both `data` and binary data")
    shape = read_shape(item.get("shape"), name)
    item_bytes = ELEMENT_BYTES[datatype]
    if item_bytes is not None and element_count(shape) * item_bytes != len(data):
        raise BadRequest(
            f"input {name!r} has {len(data)} bytes of binary data, shape {list(shape)} of {datatype} needs "
            f"{element_count(shape) * item_bytes}"
        )
    return InputTensor(name, datatype, shape, data)


def read_shape(shape: Any, name: str) -> tuple[int, ...]:
    """Check a concrete shape.

    Raises:
        BadRequest: It is no list of sizes, or its elements are too many to be real.
    """
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise BadRequest(f"input {name!r} has no `shape` that is a list of integers")
    if len(shape) > MAX_RANK:
        raise BadRequest(f"input {name!r} has {len(shape)} dimensions, {MAX_RANK} at most")
    if any(size < 0 for size in shape):
        raise BadRequest(f"input {name!r} has a negative dimension in shape {shape}")
    if element_count(shape) > MAX_ELEMENTS or max(shape, default=0) > MAX_ELEMENTS:
        raise BadRequest(f"input {name!r} has shape {shape}: more than {MAX_ELEMENTS} elements")
    return tuple(shape)


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
