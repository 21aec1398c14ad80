"""A runtime of MLServer, which has none for ONNX of its own."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from model import DATATYPES, Model


class OnnxRuntime(MLModel):
    """Tensors to arrays, one run, arrays to tensors."""

    async def load(self) -> bool:
        self.model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = [
            {"name": t.name, "datatype": t.datatype, "shape": t.shape, "data": t.data.root} for t in payload.inputs
        ]
        arrays = self.model.run(self.model.feed(inputs))
        outputs = [
            ResponseOutput(name=name, shape=list(a.shape), datatype=DATATYPES[a.dtype.name], data=a.ravel().tolist())
            for name, a in zip(self.model.names, arrays, strict=True)
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
