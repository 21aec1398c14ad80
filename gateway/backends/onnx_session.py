"""A session of ONNX Runtime: a file made ready to run, and the quickest way to run it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from gateway.protocol.metadata import labels_in
from gateway.protocol.shapes import DTYPES, Signature, TensorSpec
from gateway.protocol.tensors import Array

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
PROVIDERS = {"cpu": [CPU], "cuda": [CUDA, CPU]}
LOG_FATAL = 4

ort.set_default_logger_severity(LOG_FATAL)  # its C++ side prints coloured lines for every failing run otherwise


class CannotLoad(Exception):
    """A model file that cannot be served; the text is the version's ``reason``."""


class OnnxSession:
    """One loaded file.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: Threads inside one operator.
        bound: Whether runs use IO binding, which strings do not take; ``None``: where the session has got CUDA.

    Attributes:
        signature: Inputs and outputs.
        dims: By input, the names or sizes of its dimensions.
        note: What an operator should know, such as a device it did not get.
        on_cuda: Whether it runs on CUDA.

    Raises:
        CannotLoad: It is no model, or one that the protocol cannot carry.
    """

    def __init__(self, file: Path, *, device: str, threads: int, bound: bool | None = None) -> None:
        if not file.is_file():
            raise CannotLoad(f"there is no model file at {file}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_FATAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(str(file), options, providers=PROVIDERS[device])
        except Exception as error:  # ONNX Runtime has no base class of its own for what a file can be
            raise CannotLoad(f"{file} cannot be loaded: {first_line(error)}") from error
        self.on_cuda = CUDA in session.get_providers()
        self.note = ""
        if device == "cuda" and not self.on_cuda:
            self.note = (
                "asked for cuda and runs on cpu: ONNX Runtime found no usable CUDA (driver, CUDA and cuDNN libraries)"
            )
        inputs = tuple(_spec(node) for node in session.get_inputs())
        said = session.get_modelmeta().custom_metadata_map
        outputs = tuple(
            _spec(node, labels_in({"labels": said.get(f"labels.{node.name}")})) for node in session.get_outputs()
        )
        self.signature = Signature("onnxruntime_onnx", inputs, outputs)
        self.dims = {node.name: tuple(node.shape) for node in session.get_inputs()}
        self._session: Any = session
        has_strings = any(spec.datatype == "BYTES" for spec in (*inputs, *outputs))
        self._is_bound = not has_strings and (self.on_cuda if bound is None else bound)
        self._quick_run: Any = None

    def prepare(self, feeds: Mapping[str, Array]) -> None:
        """Look for the quick way to run, once, with feeds that are good for nothing else.

        ``InferenceSession.run`` looks through the names of each call's inputs, which ``Binder`` has done. What it calls
        then is private to ONNX Runtime: it is used only where it gives the very same here.
        """
        if self._is_bound or self.on_cuda:
            return
        names = [spec.name for spec in self.signature.outputs]
        try:
            quick_run = self._session._sess.run
            same = zip(self._session.run(names, feeds), quick_run(names, feeds, None), strict=True)
            if all(_identical(a, b) for a, b in same):
                self._quick_run = quick_run
        except Exception:  # no such attribute, another call, or feeds that the model refuses: the public way it is
            self._quick_run = None

    def run(self, names: list[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
        """Run the model; raises whatever its operators raise. On any thread."""
        values: Sequence[Array]
        if self._quick_run is not None:
            values = self._quick_run(names, feeds, None)
        elif self._is_bound:
            values = self._bound_run(names, feeds)
        else:
            values = self._session.run(names, feeds)
        return values

    def _bound_run(self, names: list[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
        """Inputs as they lie in our memory, outputs straight into new memory of ours; the device copies once each."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        values: Sequence[Array] = binding.copy_outputs_to_cpu()
        return values

    def blank(self, rows: int = 1) -> dict[str, Array]:
        """Feeds of zeros and empty strings; dimensions of any size have ``rows``."""
        return {spec.name: _blank(spec, rows) for spec in self.signature.inputs}


def first_line(error: Exception) -> str:
    """What an error says, short enough for an answer."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def _identical(a: Array, b: Array) -> bool:
    return type(a) is type(b) and a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _spec(node: Any, labels: tuple[str, ...] = ()) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise CannotLoad(f"tensor {node.name!r} has type {node.type}, which the protocol cannot carry")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, datatype, shape, labels)


def _blank(spec: TensorSpec, rows: int) -> Array:
    shape = tuple(rows if size == -1 else size for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, "", dtype=np.object_)
    return np.zeros(shape, dtype=DTYPES[spec.datatype])
