"""An ONNX model on one thread, from and to the documents of the Open Inference Protocol. What Python peers share."""

import os

import numpy as np
import onnxruntime

DTYPES = {"FP32": np.float32, "INT64": np.int64, "BYTES": np.object_}
DATATYPES = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}


class Model:
    """A file; that which ``MODEL_FILE`` names by default."""

    def __init__(self, path=""):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        path = path or os.environ["MODEL_FILE"]
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def feed(self, inputs):
        """Arrays from the tensors of a request."""
        return {t["name"]: np.array(t["data"], dtype=DTYPES[t["datatype"]]).reshape(t["shape"]) for t in inputs}

    def run(self, feed):
        """Arrays of all outputs."""
        return self.session.run(None, feed)

    def document(self, arrays, tolist=True):
        """An answer."""
        outputs = [
            {
                "name": name,
                "datatype": DATATYPES[array.dtype.name],
                "shape": list(array.shape),
                "data": array.ravel().tolist() if tolist else array.ravel(),
            }
            for name, array in zip(self.names, arrays, strict=True)
        ]
        return {"model_name": os.environ["MODEL_NAME"], "model_version": "1", "outputs": outputs}


def stack(feeds):
    """Several requests' arrays as one batch, and the rows of each."""
    rows = [len(next(iter(feed.values()))) for feed in feeds]
    if len(feeds) == 1:
        return feeds[0], rows
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}, rows


def split(arrays, rows):
    """A batch's outputs, request by request."""
    ends = np.cumsum(rows)
    return [[array[end - n : end] for array in arrays] for end, n in zip(ends, rows, strict=True)]
