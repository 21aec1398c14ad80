"""The older protocol, ``:predict``: rows of values instead of tensors, said in terms of version 2 and back."""

import json
from typing import Any

import orjson

from gateway.errors import BadRequest
from gateway.protocol.form import ALLOW_NAN
from gateway.protocol.head import read_object
from gateway.protocol.shapes import Signature, TensorSpec, element_count
from gateway.protocol.tensors import flat


class NoPredictions(Exception):
    """An answer that cannot be said in rows."""


class Predict:
    """One ``:predict`` request.

    Args:
        body: ``{"instances": [...], "parameters"?}``. An instance is an object of values by input, or a bare
            value where the version has one input.
        signature: Of the version whose inputs give names, datatypes and shapes.

    Attributes:
        body: A request of version 2 that asks the same, in JSON.

    Raises:
        BadRequest: It is no such request.
    """

    __slots__ = ("_allow_nan", "_rows", "body")

    def __init__(self, body: bytes, signature: Signature) -> None:
        plain = read_object(body)
        instances, parameters = plain.get("instances"), plain.get("parameters")
        if not isinstance(instances, list) or not instances:
            raise BadRequest("`instances` is missing or empty; a list with a row for each instance is expected")
        columns = _columns(instances, [spec.name for spec in signature.inputs])
        asked: dict[str, Any] = {"inputs": [_input(spec, columns[spec.name]) for spec in signature.inputs]}
        if parameters is not None:
            if not isinstance(parameters, dict):
                raise BadRequest("`parameters` of the request is not an object")
            asked["parameters"] = {key: value for key, value in parameters.items() if key != "binary_data_output"}
        self._rows = len(instances)
        self._allow_nan = "parameters" in asked and asked["parameters"].get(ALLOW_NAN) is True
        self.body = orjson.dumps(asked)

    def predictions(self, body: bytes, header_length: int | None) -> bytes:
        """``{"predictions": [...]}``, made of an answer of version 2.

        Raises:
            NoPredictions: An output is not in JSON, or does not have one row for each instance.
        """
        if header_length is not None:
            raise NoPredictions("the version answered in binary form")
        try:
            plain = json.loads(body) if self._allow_nan else orjson.loads(body)
            outputs = {item["name"]: _output(item, self._rows) for item in plain["outputs"]}
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            raise NoPredictions("the version's answer does not hold a row for each instance") from None
        columns = list(outputs.values())
        rows = (
            columns[0]
            if len(columns) == 1
            else [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]
        )
        if self._allow_nan:  # orjson would write null
            return json.dumps({"predictions": rows}, ensure_ascii=False, separators=(",", ":")).encode()
        return orjson.dumps({"predictions": rows})


def _columns(instances: list[Any], names: list[str]) -> dict[str, list[Any]]:
    if len(names) == 1 and not isinstance(instances[0], dict):
        if any(isinstance(instance, dict) for instance in instances):
            raise BadRequest("some of `instances` name their inputs and some do not")
        return {names[0]: instances}
    wanted = set(names)
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict) or instance.keys() != wanted:
            raise BadRequest(f"instance {index} is not an object with exactly {', '.join(map(repr, names))}")
    return {name: [instance[name] for instance in instances] for name in names}


def _input(spec: TensorSpec, values: list[Any]) -> dict[str, Any]:
    if not spec.shape:
        raise BadRequest(f"input {spec.name!r} has no dimension for instances: use version 2 of the protocol")
    inner = _shape(values[0])
    return {"name": spec.name, "datatype": spec.datatype, "shape": [len(values), *inner], "data": values}


def _shape(value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _output(output: dict[str, Any], rows: int) -> list[Any]:
    shape, data = output["shape"], output["data"]
    if not shape or shape[0] != rows or not isinstance(data, list):
        raise ValueError(shape)
    elements = flat(data, shape)
    if None in elements:  # how some servers write NaN
        raise ValueError(data)
    for index in range(len(shape) - 1, 0, -1):
        size = shape[index]
        elements = [elements[n * size : (n + 1) * size] for n in range(element_count(shape[:index]))]
    return elements
