"""A small classifier like those of credit scoring: 100 boosted trees of depth 4 over 20 numbers, from a seed."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save_model

FEATURES = 20
TREES = 100
DEPTH = 4
SEED = 11


def write_small_model(path: Path) -> None:
    """Write the file: input ``x`` FP32 (n, 20), outputs ``label`` INT64 (n) and ``probabilities`` FP32 (n, 2)."""
    node = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "probabilities"], domain="ai.onnx.ml", **_trees()
    )
    graph = helper.make_graph(
        [node],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def _trees() -> dict[str, object]:
    """Complete trees; node ``n`` has the children ``2n + 1`` and ``2n + 2``."""
    random = np.random.default_rng(SEED)
    inner, nodes = 2**DEPTH - 1, 2 ** (DEPTH + 1) - 1
    is_leaf = [n >= inner for n in range(nodes)]
    each = [(tree, n) for tree in range(TREES) for n in range(nodes)]
    leaves = [(tree, n) for tree, n in each if is_leaf[n]]
    return {
        "nodes_treeids": [tree for tree, _ in each],
        "nodes_nodeids": [n for _, n in each],
        "nodes_modes": ["LEAF" if is_leaf[n] else "BRANCH_LEQ" for _, n in each],
        "nodes_featureids": [0 if is_leaf[n] else int(random.integers(FEATURES)) for _, n in each],
        "nodes_values": [0.0 if is_leaf[n] else float(random.normal()) for _, n in each],
        "nodes_truenodeids": [0 if is_leaf[n] else 2 * n + 1 for _, n in each],
        "nodes_falsenodeids": [0 if is_leaf[n] else 2 * n + 2 for _, n in each],
        "class_treeids": [tree for tree, _ in leaves],
        "class_nodeids": [n for _, n in leaves],
        "class_ids": [1] * len(leaves),
        "class_weights": [float(random.normal() * 0.05) for _ in leaves],
        "classlabels_int64s": [0, 1],
        "post_transform": "LOGISTIC",
        "base_values": [0.0],
    }
