"""Nodes of ONNX files against the operators that TensorRT documents."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cropr_mm.export.tensorrt import check_nodes, node_table, operators

onnx = pytest.importorskip("onnx", reason="needs cropr_mm[export]")


def written(file: Path, *nodes: Any, **constants: Any) -> Path:
    """A file with these nodes, the input x (4, 6) in float32, and small constants."""
    kept = [onnx.numpy_helper.from_array(np.array(v), name) for name, v in constants.items()]
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (4, 6))
    given_too = onnx.helper.make_tensor_value_info("axis", onnx.TensorProto.INT64, ())
    last = onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(list(nodes), "g", [given, given_too], [last], kept)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), file)
    return file


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def broken(file: Path) -> dict[str, dict[str, int]]:
    return {entry.name: dict(entry.broken) for entry in check_nodes(file)}


def test_nodes_that_are_documented_pass(tmp_path: Path) -> None:
    nodes = node("TopK", "x k", "values places"), node("CumSum", "values one", "y")
    file = written(tmp_path / "a.onnx", *nodes, k=[3], one=1)
    assert broken(file) == {"CumSum": {}, "TopK": {}}
    assert "2 types of nodes, 0 that TensorRT does not take" in node_table(check_nodes(file))


def test_what_breaks_a_limit_is_counted(tmp_path: Path) -> None:
    nodes = (
        node("TopK", "x many", "a b"),
        node("TopK", "x k", "c d", sorted=0),
        node("Cast", "x", "whole", to=onnx.TensorProto.INT64),
        node("CumSum", "whole one", "e"),
        node("CumSum", "x axis", "f"),
        node("Unique", "x", "g"),
        node("QuantizeLinear", "x scale zero", "h"),
        node("Identity", "x", "z"),
    )
    constants = dict(many=[3840], k=[3], one=1, scale=np.float32(0.1), zero=np.uint8(7))
    found = broken(written(tmp_path / "a.onnx", *nodes, **constants))
    assert found["TopK"] == {"K below 3840, sorted": 2}
    assert found["CumSum"] == {"of INT64": 1, "constant axis": 1}
    assert found["Unique"] == {"no such operator": 1}
    assert found["QuantizeLinear"] == {"zero point 0": 1}
    assert found["Identity"] == {}


def test_the_table_is_whole() -> None:
    known = operators()
    assert len(known) == 150
    types = {"FP32", "FP16", "BF16", "INT32", "INT64", "UINT8", "INT8", "INT4", "FP8", "BOOL"}
    assert set().union(*(allowed for allowed, _ in known.values())) <= types
