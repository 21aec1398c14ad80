"""A model file on ONNX Runtime: loaded, warmed up, and run on tensors that fit its signature."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

from gateway.backends.base import Reply
from gateway.backends.run_time import RunTime
from gateway.errors import error_body
from gateway.protocol.request import InferRequest
from gateway.protocol.response import NotFinite, write_answer
from gateway.protocol.shapes import DTYPES, Signature, TensorSpec
from gateway.protocol.tensors import Array, bind, wanted_outputs
from routing.analysis.outcome import Kind

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
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
WARM_UP_RUNS = 3
LOG_FATAL = 4

ort.set_default_logger_severity(LOG_FATAL)  # its C++ side prints coloured lines for every failing run otherwise


class CannotLoad(Exception):
    """A model file that cannot be served; the text is the version's ``reason``."""


class OnnxModel:
    """One loaded file.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: Threads inside one operator.

    Attributes:
        signature: Inputs and outputs.
        note: What an operator should know, such as a device it did not get.

    Raises:
        CannotLoad: It is no model, or one that the protocol cannot carry.
    """

    def __init__(self, file: Path, model: str, version: str, *, device: str, threads: int) -> None:
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
            raise CannotLoad(f"{file} cannot be loaded: {_first_line(error)}") from error
        self.note = ""
        if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
            self.note = (
                "asked for cuda and runs on cpu: ONNX Runtime found no usable CUDA (driver, CUDA and cuDNN libraries)"
            )
        inputs = tuple(_spec(node) for node in session.get_inputs())
        outputs = tuple(_spec(node) for node in session.get_outputs())
        self.signature = Signature("onnxruntime_onnx", inputs, outputs)
        self._dims = {node.name: tuple(node.shape) for node in session.get_inputs()}
        self._session: Any = session
        self._head = orjson.dumps({"model_name": model, "model_version": version})[:-1]

    def warm_up(self, run_time: RunTime) -> None:
        """Run on blank rows; the first run, which allocates, is not observed."""
        feeds = {spec.name: _blank(spec) for spec in self.signature.inputs}
        for run in range(WARM_UP_RUNS):
            begin_s = perf_counter()
            try:
                self._session.run(None, feeds)
            except Exception:  # a model may refuse blank rows; it is judged by real ones
                return
            if run:
                run_time.observe(perf_counter() - begin_s, 1)

    def bind(self, request: InferRequest) -> dict[str, Array]:
        """The request's tensors for this model.

        Raises:
            BadRequest: They do not fit.
        """
        return bind(request, self.signature, self._dims)

    def run(self, feeds: dict[str, Array], request: InferRequest) -> tuple[Reply, float]:
        """Run and answer; on any thread.

        Returns:
            The reply, and how many seconds it took to write it.
        """
        specs = wanted_outputs(request, self.signature)
        try:
            values = self._session.run([spec.name for spec in specs], feeds)
        except Exception as error:  # whatever a model's operators raise
            return _failed_run(error, feeds), 0.0
        begin_s = perf_counter()
        outputs = list(zip(specs, values, strict=True))
        if problem := _broken_promise(outputs):
            return Reply(Kind.CONTRACT, 500, error_body(problem), detail=problem), 0.0
        try:
            body, header_length = write_answer(self._head, request, outputs)
        except NotFinite as error:
            return Reply(Kind.CONTRACT, 500, error_body(str(error)), detail=str(error)), 0.0
        return Reply(Kind.OK, 200, body, header_length, is_checked=True), perf_counter() - begin_s


def _spec(node: Any) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise CannotLoad(f"tensor {node.name!r} has type {node.type}, which the protocol cannot carry")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, datatype, shape)


def _blank(spec: TensorSpec) -> Array:
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, "", dtype=np.object_)
    return np.zeros(shape, dtype=DTYPES[spec.datatype])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def _failed_run(error: Exception, feeds: dict[str, Array]) -> Reply:
    if not all(array.size for array in feeds.values()):
        sentence = "this version does not take an empty batch"
        return Reply(Kind.REJECTED, 400, error_body(sentence), detail=sentence)
    sentence = f"the model failed: {_first_line(error)}"
    return Reply(Kind.ERROR, 500, error_body(sentence), detail=sentence)


def _broken_promise(outputs: Sequence[tuple[TensorSpec, Array]]) -> str:
    for spec, value in outputs:
        array = np.asarray(value)
        if not spec.admits(array.shape):
            return f"output {spec.name!r} has shape {list(array.shape)}, {list(spec.shape)} was promised"
    return ""
