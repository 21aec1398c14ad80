"""Small builders with defaults; a test states every number it asserts on."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from routing.document import RouteDocument
from routing.edit import Replace, next_document
from routing.parse import parse_route
from routing.table import Route

CHANGE_ID = "0" * 32


def route(model: str = "credit", stable: str = "1", weights: dict[str, float] | None = None, **parts: Any) -> Route:
    """A route; ``weights`` in percent by version."""
    variants = [{"version": v, "weight": w} for v, w in (weights or {"1": 95, "2": 5}).items()]
    return parse_route({"model": model, "stable": stable, "variants": variants, **parts})


def document(*edits: Route, **parts: Any) -> RouteDocument:
    """The document after the given routes were put in turn; by default 95/5 between 1 and 2."""
    current = None
    for edit in edits or (route(**parts),):
        following = next_document(current, Replace(edit), CHANGE_ID)
        assert following is None or isinstance(following, RouteDocument)
        current = following or current
    assert current is not None
    return current


def scale_model(folder: Path) -> None:
    """What version 3 of the tests' model on Triton does, as ``folder/model.onnx``: ``y = 3 x``, ``t = s``."""
    nodes = [helper.make_node("Mul", ["x", "three"], ["y"]), helper.make_node("Identity", ["s"], ["t"])]
    rows, words = ["n", 4], ["m"]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, rows),
        helper.make_tensor_value_info("s", TensorProto.STRING, words),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, rows),
        helper.make_tensor_value_info("t", TensorProto.STRING, words),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(np.float32([3]), "three")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 9
    folder.mkdir(parents=True)
    onnx.save(made, folder / "model.onnx")
