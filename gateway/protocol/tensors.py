"""Inputs: tensors of a request as numpy arrays, bound to a version's signature."""

from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import BadRequest
from gateway.protocol.binary import raw_input, read_binary
from gateway.protocol.classes import unclassifiable
from gateway.protocol.form import Form, InferRequest, InputTensor, unnested
from gateway.protocol.shapes import DTYPES, ELEMENT_BYTES, LENGTH, TYPE_CODES, Signature, TensorSpec, element_count

Array = NDArray[Any]

# Type codes of ``array.array``, which takes numbers of the right kind and range and nothing else but booleans.
_CODES: dict[str, tuple[str, np.dtype[Any]]] = {
    datatype: (code, np.dtype(DTYPES[datatype]))
    for datatype, code in TYPE_CODES.items()
    if array(code).itemsize == ELEMENT_BYTES[datatype]
}
_STRING = frozenset({str})
FITS_KEPT = 256  # forms and shapes a version; all are forgotten when there are more
FEW = 64  # numbers that plain Python adds up faster than numpy looks at them


class Fit:
    """How requests of one form fit a version: found out once for all that have the form.

    Attributes:
        inputs: Names, types in memory and shapes, in the version's order.
        outputs: Those that go out, in order.
        names: The same by name.
        rows: Of each request: the largest first dimension; 1 where there is none.
        company: Requests with equal values may share a run, where the version allows any to: they want the same outputs
            and their inputs differ in their first dimension alone. ``None`` must be alone: no rows, or none to count.
        places: Of each of the version's inputs in a request's data; ``None`` where the order is the same.
    """

    __slots__ = ("company", "inputs", "names", "outputs", "places", "rows")

    def __init__(
        self, form: Form, arrays: Mapping[str, Array], outputs: Sequence[TensorSpec], *, has_free_inner: bool
    ) -> None:
        self.inputs = [(name, array.dtype, array.shape) for name, array in arrays.items()]
        self.outputs = outputs
        self.names = [spec.name for spec in outputs]
        shapes = [array.shape for array in arrays.values()]
        self.rows = max((shape[0] for shape in shapes if shape), default=1)
        is_even = len(shapes) == 1 or all(shape[:1] == (self.rows,) for shape in shapes)
        wanted = () if form.outputs is None else tuple(self.names)
        inner = tuple([shape[1:] for shape in shapes]) if has_free_inner else ()
        self.company = (*wanted, *inner) if is_even and self.rows else None
        given = list(form.inputs)
        self.places = [given.index(name) for name in arrays] if given and given != list(arrays) else None

    def feeds(self, values: Sequence[Any]) -> dict[str, Array]:
        """The inputs of one request as arrays."""
        return {
            name: value if type(value) is np.ndarray else _as_array(value, dtype, shape)
            for (name, dtype, shape), value in zip(self.inputs, values, strict=True)
        }

    def joined(self, each: Sequence[Sequence[Any]], rows: int) -> dict[str, Array]:
        """The inputs of several requests, one behind the other, as arrays of ``rows`` rows."""
        arrays: dict[str, Array] = {}
        for place, (name, dtype, shape) in enumerate(self.inputs):
            column = [values[place] for values in each]
            if dtype.hasobject:
                arrays[name] = _objects(chain.from_iterable(map(_as_list, column)), (rows, *shape[1:]))
            elif 0 in shape:
                arrays[name] = np.concatenate(column)
            else:
                arrays[name] = np.frombuffer(b"".join(column), dtype).reshape(rows, *shape[1:])
        return arrays


class Binder:
    """Makes a request's tensors into what one version takes.

    Args:
        signature: What the version expects.
        dims: By input, the names or sizes of its dimensions; equal names must have equal sizes.
    """

    __slots__ = ("_expected", "_fits", "_half", "_has_free_inner", "_outputs", "_shared", "_signature")

    def __init__(self, signature: Signature, dims: Mapping[str, Sequence[str | int]]) -> None:
        self._signature = signature
        self._expected = {spec.name: spec for spec in signature.inputs}
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._half = [spec for spec in signature.outputs if spec.datatype == "FP16"]
        self._shared = _shared_dims(dims)
        self._has_free_inner = any(-1 in spec.shape[1:] for spec in signature.inputs)
        self._fits: dict[Hashable, Fit] = {}  # by form, or by shapes and outputs

    def bind(self, request: InferRequest) -> tuple[Fit, list[Any]]:
        """How a request fits, and the values of its inputs in the version's order: arrays, or what a
        request that shares its form has as data.

        Raises:
            BadRequest: Missing, extra or misfitting inputs, or outputs that there are not or that cannot be had so.
        """
        data, fit = request.data, None
        if data is not None:
            fit = self._fits.get(request.form)
            if fit is not None:
                return fit, data if fit.places is None else [data[place] for place in fit.places]
        arrays = self._checked(request)
        form = request.form
        key: Hashable = form
        if data is None:  # others have another form, and maybe the same shapes and outputs
            key = tuple([array.shape for array in arrays.values()])
            if form.outputs is not None:
                key = key, tuple(form.outputs)
            fit = self._fits.get(key)
        if fit is None:
            fit = Fit(form, arrays, self._wanted(form), has_free_inner=self._has_free_inner)
            if len(self._fits) >= FITS_KEPT:
                self._fits.clear()
            self._fits[key] = fit
        return fit, list(arrays.values())

    def arrays(self, request: InferRequest) -> dict[str, Array]:
        """Arrays for every input, in the version's order.

        Raises:
            BadRequest: As ``bind``.
        """
        fit, values = self.bind(request)
        return fit.feeds(values)

    def _checked(self, request: InferRequest) -> dict[str, Array]:
        inputs = request.inputs if request.raw is None else _raw(request.raw, self._signature)
        expected = self._expected
        if inputs.keys() != expected.keys():
            raise _not_the_inputs(inputs, expected)
        if request.form.outputs is not None or self._half:
            for spec in self._wanted(request.form):
                _check_wanted(request.form, spec)
        arrays = {name: _array(inputs[name], spec) for name, spec in expected.items()}
        for dim, places in self._shared:
            _check_shared(arrays, dim, places)
        return arrays

    def _wanted(self, form: Form) -> Sequence[TensorSpec]:
        """The outputs that go out, in order.

        Raises:
            BadRequest: One that the version does not have.
        """
        if form.outputs is None:
            return self._signature.outputs
        known = self._outputs
        if unknown := [name for name in form.outputs if name not in known]:
            raise BadRequest(f"output {unknown[0]!r} is unknown; there are {_listed(known)}")
        return tuple(known[name] for name in form.outputs)


def binary_form(tensor: InputTensor, data: Any) -> bytes | memoryview:
    """The data of an input in binary form. What came so goes on so: whether strings fill their bytes is the server's.

    Args:
        tensor: What the client said of it.
        data: Its own, or what a request of the same form has for it.

    Raises:
        BadRequest: The data are not what the tensor's shape and datatype say.
    """
    if type(data) is bytes or type(data) is memoryview:
        return data
    if tensor.datatype == "BYTES":
        texts = data if tensor.data is None else _strings(tensor).tolist()
        pieces = [text.encode() for text in texts]
        return b"".join([part for piece in pieces for part in (LENGTH.pack(len(piece)), piece)])
    return _quick_numbers(tensor).tobytes()


def _as_array(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if dtype.hasobject:
        return _objects(value, shape)
    found = np.frombuffer(value, dtype).reshape(shape)
    return found if type(value) is bytes or found.flags.aligned else found.copy()


def _as_list(value: Any) -> list[Any]:
    return value if type(value) is list else value.ravel().tolist()


def _objects(elements: Iterable[Any], shape: tuple[int, ...]) -> Array:
    out = np.empty(prod(shape), dtype=np.object_)
    out[:] = list(elements)
    return out.reshape(shape)


def _not_the_inputs(inputs: Mapping[str, InputTensor], expected: Mapping[str, TensorSpec]) -> BadRequest:
    if missing := [name for name in expected if name not in inputs]:
        return BadRequest(f"input {missing[0]!r} is missing; expected are {_listed(expected)}")
    extra = [name for name in inputs if name not in expected]
    return BadRequest(f"input {extra[0]!r} is unknown; expected are {_listed(expected)}")


Place = tuple[str, int]  # an input and one of its dimensions


def _shared_dims(dims: Mapping[str, Sequence[str | int]]) -> list[tuple[str, list[Place]]]:
    """Named dimensions that stand in more than one place."""
    places: dict[str, list[Place]] = {}
    for name, sizes in dims.items():
        for axis, dim in enumerate(sizes):
            if isinstance(dim, str):
                places.setdefault(dim, []).append((name, axis))
    return [(dim, where) for dim, where in places.items() if len(where) > 1]


def _check_wanted(form: Form, spec: TensorSpec) -> None:
    if form.classes(spec.name):
        if len(spec.shape) < 2 or spec.datatype in {"BYTES", "BOOL"}:
            raise unclassifiable(spec.name)
    elif spec.datatype == "FP16" and not form.is_binary(spec.name):
        raise BadRequest(
            f'output {spec.name!r} is FP16, which has no JSON form: ask for it with `"binary_data": true`'
            ", or name other outputs"
        )


def _raw(body: memoryview, signature: Signature) -> dict[str, InputTensor]:
    if len(signature.inputs) != 1:
        raise BadRequest(f"a raw request carries one input, expected are {_listed(s.name for s in signature.inputs)}")
    tensor = raw_input(body, signature.inputs[0])
    return {tensor.name: tensor}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _check_shared(arrays: Mapping[str, Array], dim: str, places: Sequence[Place]) -> None:
    other, axis = places[0]
    other_size = arrays[other].shape[axis]
    for name, axis in places:
        size = arrays[name].shape[axis]
        if size != other_size:
            raise BadRequest(f"inputs {other!r} and {name!r} disagree on {dim!r}: {other_size} and {size}")


def _array(tensor: InputTensor, spec: TensorSpec) -> Array:
    if tensor.datatype != spec.datatype:
        raise BadRequest(f"input {tensor.name!r} has datatype {tensor.datatype}, {spec.datatype} is expected")
    if not spec.admits(tensor.shape):
        raise BadRequest(
            f"input {tensor.name!r} has shape {list(tensor.shape)}, {list(spec.shape)} is expected (-1: any size)"
        )
    if type(tensor.data) is memoryview:
        flat_array = read_binary(tensor)
    else:
        flat_array = _strings(tensor) if tensor.datatype == "BYTES" else _quick_numbers(tensor)
    return flat_array if len(tensor.shape) == 1 else flat_array.reshape(tensor.shape)


def flat(data: list[Any], shape: Sequence[int]) -> list[Any]:
    """Elements in row-major order, from data that is flat or nested exactly as ``shape`` says.

    Raises:
        ValueError: It is neither; the text says what is wrong.
    """
    if len(shape) > 1 and data and type(data[0]) is list:
        level = data
        for depth, below in enumerate(shape[1:], 1):
            is_even = len(level) == element_count(shape[:depth]) and {type(row) for row in level} == {list}
            if not is_even or {len(row) for row in level} != {below}:
                raise ValueError("is nested unevenly, or not as its shape says")
            level = list(chain.from_iterable(level))
        return level
    if len(data) != element_count(shape):
        raise ValueError(f"holds {len(data)} elements, its shape asks for {element_count(shape)}")
    return data


def _strings(tensor: InputTensor) -> Array:
    if not isinstance(tensor.data, list):
        raise BadRequest(f"`data` of input {tensor.name!r} is not a list")
    try:
        strings = flat(tensor.data, tensor.shape)
    except ValueError as problem:
        raise BadRequest(f"input {tensor.name!r} {problem}") from None
    if not _STRING.issuperset(map(type, strings)):
        raise BadRequest(f"input {tensor.name!r} is BYTES and holds something that is not a string")
    return _objects(strings, (len(strings),))


def _quick_numbers(tensor: InputTensor) -> Array:
    """As ``_numbers``, which takes whatever is not the common case: right numbers in one list, or in one row."""
    known = _CODES.get(tensor.datatype)
    data = tensor.data
    if len(tensor.shape) > 1 and type(data) is list and data and type(data[0]) is list:
        data, _ = unnested(data, tensor.shape)
    if known is None or type(data) is not list or len(data) != prod(tensor.shape):
        return _numbers(tensor)
    if tensor.may_hold_booleans and bool in set(map(type, data)):
        return _numbers(tensor)
    code, dtype = known
    try:
        numbers = array(code, data)
    except (TypeError, OverflowError):
        return _numbers(tensor)  # it holds something else, and the sentence is made there
    if not data:
        return np.empty(0, dtype)
    found = np.frombuffer(numbers, dtype)
    if code in "fd" and not (isfinite(sum(numbers)) if len(data) <= FEW else np.isfinite(found).all()):
        return _numbers(tensor)
    return found


def _numbers(tensor: InputTensor) -> Array:
    name, data = tensor.name, tensor.data
    if not isinstance(data, list):
        raise BadRequest(f"`data` of input {name!r} is not a list")
    try:
        found = np.array(data)
    except (ValueError, OverflowError, TypeError):
        raise BadRequest(f"`data` of input {name!r} is nested unevenly") from None
    count = element_count(tensor.shape)
    if found.size != count:
        raise BadRequest(f"input {name!r} holds {found.size} elements, its shape asks for {count}")
    if found.ndim > 1 and found.shape != tensor.shape:
        raise BadRequest(f"`data` of input {name!r} is nested as {list(found.shape)}, not as its shape says")
    dtype = np.dtype(DTYPES[tensor.datatype])
    if count == 0:
        return np.empty(0, dtype)
    if dtype.kind != "b" and _holds_booleans(data):  # which numpy turns into numbers beside numbers
        raise BadRequest(f"input {name!r} holds something that is no {tensor.datatype}")
    if dtype.kind == "u" and found.dtype.kind == "f":  # what numpy makes of 1 beside 2**63
        found = _exact(data, found, tensor)
    _check_kind(found, dtype, tensor)
    with np.errstate(over="ignore"):
        cast = found.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(cast).all():
        raise BadRequest(f"input {name!r} holds a number too large for {tensor.datatype}")
    return cast


def _holds_booleans(data: list[Any]) -> bool:
    kinds = set(map(type, data))
    return bool in kinds or (list in kinds and any(_holds_booleans(part) for part in data))


def _exact(data: list[Any], found: Array, tensor: InputTensor) -> Array:
    elements = data if found.ndim == 1 else flat(data, tensor.shape)
    if {type(item) for item in elements} != {int}:
        return found
    try:
        return np.array(elements, np.uint64)
    except OverflowError:
        raise BadRequest(f"input {tensor.name!r} holds a number that does not fit {tensor.datatype}") from None


def _check_kind(found: Array, dtype: np.dtype[Any], tensor: InputTensor) -> None:
    """Refuse what numpy would silently convert: strings, null, fractions for integers, sizes that wrap."""
    wanted = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if found.dtype.kind not in wanted:
        raise BadRequest(f"input {tensor.name!r} holds something that is no {tensor.datatype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise BadRequest(f"input {tensor.name!r} holds a number that does not fit {tensor.datatype}")
