"""What an inference request says, apart from what many requests say the same way."""

from collections.abc import Sequence
from typing import Any

ALLOW_NAN = "allow_nan"  # request parameter: answer NaN and infinities in the `NaN`/`Infinity` spelling


class InputTensor:
    """One input as the client sent it.

    Attributes:
        data: A flat or nested JSON list, or a ``memoryview`` of the binary form; in a form ``None`` where each request
            has its own.
        may_hold_booleans: False only where the text shows that the list holds none, which then need not be looked for.
    """

    __slots__ = ("data", "datatype", "may_hold_booleans", "name", "shape")

    def __init__(
        self, name: str, datatype: str, shape: tuple[int, ...], data: Any, *, may_hold_booleans: bool = True
    ) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.data = data
        self.may_hold_booleans = may_hold_booleans


class Form:
    """All of a request but its data and its id; shared by requests that say the same, and never changed.

    Attributes:
        id: What stood in the text that it was read from.
        parameters: Of the request.
        inputs: By name, in the client's order.
        outputs: Names asked for with the parameters of each, ``None`` for all.
        sizes: Bytes of each input in binary form, in the order of the binary part.
        binary: Whether outputs go out in binary form where they do not say themselves.
        is_plain: All outputs go out as JSON tensors.
    """

    __slots__ = ("binary", "id", "inputs", "is_plain", "outputs", "parameters", "sizes")

    def __init__(
        self,
        parameters: dict[str, Any],
        inputs: dict[str, InputTensor],
        outputs: dict[str, dict[str, Any]] | None,
        *,
        id: str | None = None,
        sizes: Sequence[tuple[str, int]] = (),
        binary: bool = False,
    ) -> None:
        self.id = id
        self.parameters = parameters
        self.inputs = inputs
        self.outputs = outputs
        self.sizes = sizes
        self.binary = binary or parameters.get("binary_data_output") is True
        self.is_plain = outputs is None and not self.binary

    def of(self, inputs: dict[str, InputTensor]) -> "Form":
        """The same with other inputs."""
        return Form(self.parameters, inputs, self.outputs, id=self.id, sizes=self.sizes, binary=self.binary)

    def is_binary(self, output: str) -> bool:
        """Whether an output goes out in binary form."""
        said = self.outputs[output].get("binary_data") if self.outputs else None
        return self.binary if said is None else bool(said)

    def classes(self, output: str) -> int:
        """How many classes of an output are asked for instead of its tensor; 0 for the tensor."""
        return int(self.outputs[output].get("classification", 0)) if self.outputs else 0


class InferRequest:
    """A request of the protocol.

    Attributes:
        form: What it says besides its data.
        id: The client's, to be echoed, or ``None``.
        data: Of each input of the form, in order: numbers in binary form that are known to be as many as its shape
            says, or strings as a list of as many. The form is then one that other requests share. ``None``: the data
            are in the form's inputs, and nothing is known of them.
        raw: The whole body of a raw request, which is its one input; then ``inputs`` is empty.
    """

    __slots__ = ("data", "form", "id", "raw")

    def __init__(
        self, form: Form, id: str | None, data: list[Any] | None = None, raw: memoryview | None = None
    ) -> None:
        self.form = form
        self.id = id
        self.data = data
        self.raw = raw

    @property
    def inputs(self) -> dict[str, InputTensor]:
        """By name, in the client's order."""
        if self.data is None:
            return self.form.inputs
        return {
            tensor.name: InputTensor(tensor.name, tensor.datatype, tensor.shape, _viewed(data))
            for tensor, data in zip(self.form.inputs.values(), self.data, strict=True)
        }

    @property
    def outputs(self) -> dict[str, dict[str, Any]] | None:
        """Names asked for with the parameters of each, ``None`` for all."""
        return self.form.outputs

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the request."""
        return self.form.parameters

    @property
    def allow_nan(self) -> bool:
        """Whether NaN and infinities may go out in JSON."""
        return self.form.parameters.get(ALLOW_NAN) is True


def unnested(data: Any, shape: Sequence[int]) -> tuple[Any, int]:
    """The elements of one row nested as its shape says, and how many lists are around them; else the data as given."""
    depth, inner = len(shape) - 1, data
    for size in shape[:-1]:
        if size != 1 or type(inner) is not list or len(inner) != 1:
            return data, 0
        inner = inner[0]
    return (inner, depth) if depth > 0 and type(inner) is list else (data, 0)


def _viewed(data: Any) -> Any:
    return memoryview(data) if type(data) is bytes else data
