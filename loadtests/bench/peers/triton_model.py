"""A model of Triton's python backend: an ONNX session in its stub process. The stub sees no virtual environment."""

import json
import os
import sys

sys.path[:0] = [os.environ["MODEL_PACKAGES"], os.environ["MODEL_FOLDER"]]

import numpy as np  # noqa: E402
import triton_python_backend_utils as backend  # noqa: E402
from model import Model, split, stack  # noqa: E402


class TritonPythonModel:
    """All requests of a call are run together."""

    def initialize(self, args):
        self.model = Model()
        self.inputs = [entry["name"] for entry in json.loads(args["model_config"])["input"]]

    def _feed(self, request):
        feed = {}
        for name in self.inputs:
            array = backend.get_input_tensor_by_name(request, name).as_numpy()
            if array.dtype == np.object_:
                array = np.array([text.decode() for text in array.ravel()], dtype=object).reshape(array.shape)
            feed[name] = array
        return feed

    def execute(self, requests):
        feed, rows = stack([self._feed(request) for request in requests])
        answers = split(self.model.run(feed), rows)
        return [
            backend.InferenceResponse(
                [backend.Tensor(name, a) for name, a in zip(self.model.names, arrays, strict=True)]
            )
            for arrays in answers
        ]
