"""``ModelInfer`` of the protocol's gRPC form: requests written from what came over HTTP, answers read."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from gateway.errors import BadRequest
from gateway.protocol import protobuf
from gateway.protocol.binary import raw_input
from gateway.protocol.form import Form, InferRequest, InputTensor
from gateway.protocol.protobuf import MAX_UINT64, Bytes, Unreadable
from gateway.protocol.shapes import MAX_RANK, Signature
from gateway.protocol.tensors import binary_form

FORMS_KEPT = 256  # forms whose part of a request is kept; all are forgotten when there are more
MAX_OUTPUTS = 1024  # of an answer
DESCRIPTIONS_KEPT, DESCRIPTION_BYTES = 256, 1024  # descriptions of outputs that are kept, and how long they may be
OF_HTTP = frozenset({"binary_data_output", "binary_data_size", "binary_data"})  # parameters that say how, not what
_MAX_INT64 = (1 << 63) - 1


class OutputTensor(NamedTuple):
    """One output as a server sent it; ``data`` is in binary form."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Mapping[str, Any]
    data: Bytes


class InferAnswer(NamedTuple):
    """A ``ModelInferResponse``."""

    version: str
    parameters: Mapping[str, Any]
    outputs: list[OutputTensor]


class InferWriter:
    """Writes requests for one version of a model on a server.

    Args:
        model: The server's name for the model.
        version: The server's name for the version.
    """

    def __init__(self, model: str, version: str) -> None:
        self._names = protobuf.text(1, model) + protobuf.text(2, version)
        self._forms: dict[Form, bytes] = {}

    def write(self, request: InferRequest, signature: Signature | None) -> bytes:
        """A ``ModelInferRequest``.

        Args:
            request: As it was read.
            signature: Of the version; what a raw request carries follows from it.

        Raises:
            BadRequest: A tensor or a parameter that has no such form.
        """
        form = request.form
        parts = [self._names]
        if request.id:
            parts.append(protobuf.text(3, request.id))
        if request.data is not None:
            parts.append(self._kept(form))
            contents: Iterable[Any] = map(binary_form, request.form.inputs.values(), request.data)
        else:
            tensors = list((form.inputs if request.raw is None else _raw(request.raw, signature)).values())
            parts.append(_described(form, tensors))
            contents = [binary_form(tensor, tensor.data) for tensor in tensors]
        for content in contents:
            parts += (protobuf.opening(7, len(content)), content)
        return b"".join(parts)

    def _kept(self, form: Form) -> bytes:
        """What many requests say the same way is written once."""
        part = self._forms.get(form)
        if part is None:
            part = _described(form, form.inputs.values())
            if len(self._forms) >= FORMS_KEPT:
                self._forms.clear()
            self._forms[form] = part
        return part


def _raw(body: memoryview, signature: Signature | None) -> dict[str, InputTensor]:
    if signature is None or len(signature.inputs) != 1:
        raise BadRequest("a raw request carries one input, and this version expects several")
    tensor = raw_input(body, signature.inputs[0])
    return {tensor.name: tensor}


def _described(form: Form, tensors: Iterable[InputTensor]) -> bytes:
    """Parameters, inputs without their data, and outputs."""
    parts = [_parameters(4, form.parameters)]
    for tensor in tensors:
        shape = b"".join(map(protobuf.varint, tensor.shape))
        said = protobuf.text(1, tensor.name) + protobuf.text(2, tensor.datatype) + protobuf.data(3, shape)
        parts.append(protobuf.data(5, said))
    for name, parameters in (form.outputs or {}).items():
        parts.append(protobuf.data(6, protobuf.text(1, name) + _parameters(2, parameters)))
    return b"".join(parts)


def _parameters(field: int, parameters: Mapping[str, Any]) -> bytes:
    return b"".join(
        protobuf.data(field, protobuf.text(1, name) + protobuf.data(2, _parameter(name, value)))
        for name, value in parameters.items()
        if name not in OF_HTTP
    )


def _parameter(name: str, value: Any) -> bytes:
    match value:
        case bool():
            return protobuf.number(1, value)
        case int() if -_MAX_INT64 - 1 <= value <= _MAX_INT64:
            return protobuf.number(2, value)
        case int() if 0 <= value <= MAX_UINT64:
            return protobuf.number(5, value)
        case str():
            return protobuf.text(3, value)
        case float():
            return protobuf.double(4, value)
        case _:
            raise BadRequest(f"parameter {name!r} is neither text, a number nor a truth")


def read_answer(message: bytes) -> InferAnswer:
    """Read a ``ModelInferResponse``.

    Raises:
        Unreadable: It is none, or has its tensors in another form than raw.
    """
    version = ""
    parameters: dict[str, Any] = {}
    described: list[_Described] = []
    contents: list[Bytes] = []
    for field, value in protobuf.read(message):
        match field:
            case 2:
                version = protobuf.as_text(value)
            case 4:
                parameters |= _entry(protobuf.view(value))
            case 5:
                said = protobuf.view(value)
                usual = type(said) is bytes and len(said) <= DESCRIPTION_BYTES
                described.append(_usual_output(said) if usual else _output(said))
            case 6:
                contents.append(protobuf.view(value))
        if len(described) > MAX_OUTPUTS:
            raise Unreadable(f"sent more than {MAX_OUTPUTS} outputs")
    if len(described) != len(contents):
        raise Unreadable(f"sent {len(described)} outputs and the data of {len(contents)}")
    outputs = [OutputTensor(*said, content) for said, content in zip(described, contents, strict=True)]
    return InferAnswer(version, parameters, outputs)


_Described = tuple[str, str, tuple[int, ...], dict[str, Any]]


@lru_cache(DESCRIPTIONS_KEPT)
def _usual_output(message: bytes) -> _Described:
    return _output(message)


def _output(message: Bytes) -> _Described:
    name = datatype = ""
    shape: list[int] = []
    parameters: dict[str, Any] = {}
    for field, value in protobuf.read(message):
        match field:
            case 1:
                name = protobuf.as_text(value)
            case 2:
                datatype = protobuf.as_text(value)
            case 3:
                shape += protobuf.as_integers(value)
            case 4:
                parameters |= _entry(protobuf.view(value))
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise Unreadable(f"sent output {name!r} with a shape that is none")
    return name, datatype, tuple(shape), parameters


def _entry(message: Bytes) -> dict[str, Any]:
    """One parameter."""
    name, found = "", None
    for field, value in protobuf.read(message):
        if field == 1:
            name = protobuf.as_text(value)
        elif field == 2:
            found = _value(protobuf.view(value))
    return {name: found} if found is not None else {}


def _value(message: Bytes) -> Any:
    found: Any = None
    for field, value in protobuf.read(message):
        match field, value:
            case 1, int():
                found = bool(value)
            case 2, int():
                found = protobuf.signed(value)
            case 5, int():
                found = value
            case 3, _:
                found = protobuf.as_text(value)
            case 4, _:
                found = protobuf.as_double(value)
    return found
