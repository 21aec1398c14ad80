"""Model metadata of the Open Inference Protocol, read into a signature; and signatures as plain data."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gateway.protocol.shapes import ELEMENT_BYTES, MAX_RANK, Signature, TensorSpec


def parse_signature(body: bytes) -> Signature:
    """Read the answer of ``GET /v2/models/{model}``.

    Raises:
        ValueError: A sentence that says what is not metadata about it.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise ValueError(f"the metadata is not JSON: {problem}") from None
    if not isinstance(document, dict):
        raise ValueError("the metadata is not an object")
    platform = document.get("platform", "")
    return Signature(
        platform if isinstance(platform, str) else "",
        tuple(_tensors(document, "inputs")),
        tuple(_tensors(document, "outputs")),
    )


def as_plain(signature: Signature) -> dict[str, Any]:
    """A signature as JSON data, for another process of this release."""
    return {
        "platform": signature.platform,
        **{
            side: [[spec.name, spec.datatype, spec.shape, spec.labels] for spec in getattr(signature, side)]
            for side in ("inputs", "outputs")
        },
    }


def from_plain(plain: Mapping[str, Any]) -> Signature:
    """The signature that ``as_plain`` was given."""
    inputs, outputs = (
        tuple(TensorSpec(name, datatype, tuple(shape), tuple(labels)) for name, datatype, shape, labels in plain[side])
        for side in ("inputs", "outputs")
    )
    return Signature(plain["platform"], inputs, outputs)


def labels_in(parameters: object) -> tuple[str, ...]:
    """The class labels in a tensor's ``parameters``: a list of texts under ``labels``, or one as JSON text."""
    labels = parameters.get("labels") if isinstance(parameters, Mapping) else None
    if isinstance(labels, str):
        try:
            labels = orjson.loads(labels)
        except orjson.JSONDecodeError:
            return ()
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return ()
    return tuple(labels)


def _tensors(document: dict[str, object], side: str) -> Iterator[TensorSpec]:
    tensors = document.get(side)
    if not isinstance(tensors, list) or not tensors:
        raise ValueError(f"the metadata lists no {side}")
    seen: set[str] = set()
    for tensor in tensors:
        spec = _tensor(tensor, side)
        if spec.name in seen:
            raise ValueError(f"the metadata names {spec.name!r} twice in {side}")
        seen.add(spec.name)
        yield spec


def _tensor(tensor: object, side: str) -> TensorSpec:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise ValueError(f"the metadata has a tensor without a name in {side}")
    name, datatype, shape = tensor["name"], tensor.get("datatype"), tensor.get("shape")
    if not isinstance(datatype, str) or datatype not in ELEMENT_BYTES:
        raise ValueError(f"{side[:-1]} {name!r} has datatype {datatype!r}, which this gateway does not know")
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise ValueError(f"{side[:-1]} {name!r} has no shape of at most {MAX_RANK} dimensions")
    if not all(type(size) is int and size >= -1 for size in shape):
        raise ValueError(f"{side[:-1]} {name!r} has shape {shape!r}: sizes are integers, -1 for any")
    return TensorSpec(name, datatype, tuple(shape), labels_in(tensor.get("parameters")))
