"""A version's configuration as Triton's clients read it."""

from typing import Any

from gateway.protocol.shapes import Signature, TensorSpec


def model_config(model: str, backend: str, signature: Signature) -> dict[str, Any]:
    """The answer of ``GET …/config``. Shapes hold every dimension, so ``max_batch_size`` is 0."""
    return {
        "name": model,
        "platform": signature.platform,
        "backend": backend,
        "max_batch_size": 0,
        "input": [_tensor(spec) for spec in signature.inputs],
        "output": [_tensor(spec) for spec in signature.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape)}
