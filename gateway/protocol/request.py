"""An inference request's JSON, read into tensors that are not yet bound to a version's signature."""

from typing import Any

import orjson

from gateway.errors import BadRequest
from gateway.protocol.shapes import ELEMENT_BYTES, MAX_ELEMENTS, MAX_RANK, element_count

MAX_TENSORS = 256
ALLOW_NAN = "allow_nan"  # request parameter: answer NaN and infinities in the `NaN`/`Infinity` spelling


class InputTensor:
    """One input as the client sent it.

    Attributes:
        data: Flat or nested JSON list.
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
        outputs: Names asked for, ``None`` for all.
    """

    __slots__ = ("id", "inputs", "outputs", "parameters")

    def __init__(
        self,
        id: str | None,
        parameters: dict[str, Any],
        inputs: dict[str, InputTensor],
        outputs: tuple[str, ...] | None,
    ) -> None:
        self.id = id
        self.parameters = parameters
        self.inputs = inputs
        self.outputs = outputs

    @property
    def allow_nan(self) -> bool:
        """Whether NaN and infinities may go out in JSON."""
        return self.parameters.get(ALLOW_NAN) is True


def read_request(body: bytes) -> InferRequest:
    """Read the JSON form.

    Raises:
        BadRequest: It is no inference request; the sentence says where.
    """
    try:
        plain = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is no valid JSON: {error}") from None
    if not isinstance(plain, dict):
        raise BadRequest("the body is not a JSON object")
    identifier = plain.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise BadRequest("`id` is not a string")
    parameters = _parameters(plain, "the request")
    raw_inputs = _objects(plain.get("inputs"), "inputs")
    if not raw_inputs:
        raise BadRequest("`inputs` is missing or empty")
    inputs: dict[str, InputTensor] = {}
    for item in raw_inputs:
        tensor = _input(item)
        if tensor.name in inputs:
            raise BadRequest(f"input {tensor.name!r} is given twice")
        inputs[tensor.name] = tensor
    return InferRequest(identifier, parameters, inputs, _outputs(plain.get("outputs")))


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
    return parameters


def _name(item: dict[str, Any], what: str) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise BadRequest(f"an {what} has no `name`")
    return name


def _input(item: dict[str, Any]) -> InputTensor:
    name = _name(item, "input")
    datatype = item.get("datatype")
    if not isinstance(datatype, str) or datatype not in ELEMENT_BYTES:
        raise BadRequest(f"input {name!r} has datatype {datatype!r}; one of {', '.join(ELEMENT_BYTES)} is expected")
    if datatype == "FP16":
        raise BadRequest(f"input {name!r}: FP16 has no JSON form, send it as binary tensor data or as FP32")
    if "binary_data_size" in _parameters(item, f"input {name!r}"):
        raise BadRequest(
            f"input {name!r} announces binary data, but the request has no Inference-Header-Content-Length header"
        )
    if "data" not in item:
        raise BadRequest(f"input {name!r} has no `data`")
    return InputTensor(name, datatype, read_shape(item.get("shape"), name), item["data"])


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
    if element_count(shape) > MAX_ELEMENTS:
        raise BadRequest(f"input {name!r} has shape {shape}: more than {MAX_ELEMENTS} elements")
    return tuple(shape)


def _outputs(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = []
    for item in _objects(value, "outputs"):
        name = _name(item, "output")
        parameters = _parameters(item, f"output {name!r}")
        if parameters.get("binary_data") is True:
            raise BadRequest(f"output {name!r} is asked for as binary data, which this gateway answers as JSON only")
        if parameters.get("classification"):
            raise BadRequest(f"output {name!r} asks for classification, which this gateway does not offer")
        if name in names:
            raise BadRequest(f"output {name!r} is asked for twice")
        names.append(name)
    return tuple(names) or None
