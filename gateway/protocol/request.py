"""An inference request, read into tensors that are not yet bound to a version's signature."""

from functools import lru_cache

from gateway.errors import BadRequest
from gateway.protocol.form import ALLOW_NAN, Form, InferRequest, InputTensor
from gateway.protocol.head import read_head, read_object
from gateway.protocol.shapes import ELEMENT_BYTES, element_count
from gateway.protocol.skeleton import Skeletons

__all__ = ["ALLOW_NAN", "InferRequest", "InputTensor", "read_object", "read_request"]

HEADERS_KEPT = 256  # JSON parts of binary requests that are read once; clients repeat theirs byte for byte
HEADER_KEPT_BYTES = 1024  # longer ones are read each time
COPIED_BYTES = 4096  # of a binary tensor that is copied rather than looked at where it lies
_RAW = Form({}, {}, None, binary=True)
_skeletons = Skeletons()


def read_request(body: bytes, header_length: int | None = None) -> InferRequest:
    """Read a request.

    Args:
        body: The whole body.
        header_length: Length of the JSON part when binary tensors follow it, ``None`` when all is JSON. 0 makes it a
            raw request: the body is the one input, and all outputs go out in binary form.

    Raises:
        BadRequest: It is no inference request; the sentence says where.
    """
    if header_length is None:
        request = _skeletons.read(body)
        if request is None:
            request = read_json(body)
            _skeletons.visited(body, request, read_json)
        return request
    if header_length == 0:
        return InferRequest(_RAW, None, None, memoryview(body))
    text = body[:header_length]
    if header_length > HEADER_KEPT_BYTES:
        return _with_tail(read_head(text), body, header_length)
    form, cuts, end = _kept_head(text)
    if cuts is None or len(body) - header_length != end:
        return _with_tail(form, body, header_length)
    if len(cuts) == 1 and end <= COPIED_BYTES:
        return InferRequest(form, form.id, [body[header_length:]])
    view: bytes | memoryview = body if end <= COPIED_BYTES else memoryview(body)
    return InferRequest(form, form.id, [view[header_length + a : header_length + b] for a, b in cuts])


def read_json(body: bytes) -> InferRequest:
    """Read a request that is all JSON.

    Raises:
        BadRequest: It is none; the sentence says where.
    """
    return _with_tail(read_head(body), body, None)


def _with_tail(form: Form, body: bytes, header_length: int | None) -> InferRequest:
    """A request of a form: its binary part cut up and held against what the form says."""
    end = len(body) if header_length is None else header_length
    if form.sizes:
        inputs = form.inputs.copy()
        for name, size in form.sizes:
            inputs[name], end = _binary_input(inputs[name], size, body, end, is_there=header_length is not None)
        form = form.of(inputs)
    if end != len(body):
        raise BadRequest(f"{len(body) - end} bytes follow the JSON part that no input describes")
    return InferRequest(form, form.id)


Cuts = list[tuple[int, int]]  # where each input begins and ends, from the end of the JSON part


@lru_cache(HEADERS_KEPT)
def _kept_head(text: bytes) -> tuple[Form, Cuts | None, int]:
    """A form, where its inputs lie, and how long the binary part is; ``None`` where that alone does not make them."""
    form = read_head(text)
    if [name for name, _ in form.sizes] != list(form.inputs):  # some have their data in the JSON part
        return form, None, 0
    cuts, end = [], 0
    for name, size in form.sizes:
        if not size or size != _binary_bytes(form.inputs[name]):
            return form, None, 0
        cuts.append((end, end + size))
        end += size
    return form, cuts, end


def _binary_bytes(described: InputTensor) -> int | None:
    """Bytes of numbers in binary form; of strings and BOOL nothing is known before they were looked at."""
    item_bytes = ELEMENT_BYTES[described.datatype]
    if item_bytes is None or described.datatype == "BOOL":
        return None
    return element_count(described.shape) * item_bytes


def _binary_input(
    described: InputTensor, size: int, body: bytes, begin: int, *, is_there: bool
) -> tuple[InputTensor, int]:
    """The next input of the binary part, and where it ends."""
    name, shape = described.name, described.shape
    if size and not is_there:
        raise BadRequest(
            f"input {name!r} announces binary data, but no Inference-Header-Content-Length header says where it is"
        )
    if size > len(body) - begin:
        raise BadRequest(f"input {name!r} announces {size} bytes, {len(body) - begin} are left of the body")
    item_bytes = ELEMENT_BYTES[described.datatype]
    if item_bytes is not None and element_count(shape) * item_bytes != size:
        raise BadRequest(
            f"input {name!r} has {size} bytes of binary data, shape {list(shape)} of {described.datatype} needs "
            f"{element_count(shape) * item_bytes}"
        )
    end = begin + size
    return InputTensor(name, described.datatype, shape, memoryview(body)[begin:end]), end
