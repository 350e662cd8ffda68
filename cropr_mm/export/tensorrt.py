"""Compare the nodes of an ONNX file with the operators that TensorRT 10 documents.

Nothing of TensorRT is needed, and nothing is built: what is found here would fail there, what is
not found here may fail for another reason.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cropr_mm.export.runtime.session import need
from cropr_mm.text_table import format_table

MOST_TOPK = 3839
_FILE = Path(__file__).with_name("tensorrt_operators.tsv")
_TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16"}
Constants = Mapping[str, NDArray]


@dataclass
class NodeType:
    """All nodes of one type in a file.

    Attributes:
        name: Of the operator; with its domain where that is not ONNX's own.
        limit: What TensorRT's documents say about it; None for an operator that they do not have.
        count: Nodes.
        broken: How many nodes do what TensorRT does not take, by what that is.
    """

    name: str
    limit: str | None
    count: int = 0
    broken: Counter[str] = field(default_factory=Counter)


def check_nodes(file: Path) -> list[NodeType]:
    """Look up every node of an ONNX file, those in branches and loops too.

    Args:
        file: ONNX file.

    Returns:
        Types in the order of their names.

    Raises:
        ExportError: If the package onnx is missing.
    """
    onnx = need("onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(file, load_external_data=False))
    known = operators()
    found: dict[str, NodeType] = {}
    for graph in _graphs(model.graph):
        constants = _constants(graph, onnx)
        types = _types(graph, onnx)
        for node in graph.node:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            allowed, limit = known.get(name, (frozenset(), None))
            entry = found.setdefault(name, NodeType(name, limit))
            entry.count += 1
            if limit is None:
                entry.broken["no such operator"] += 1
                continue
            given = types.get(node.input[0]) if node.input else None
            if given is not None and given not in allowed:
                entry.broken[f"of {given}"] += 1
            breaks = _RULES.get(node.op_type)
            if breaks is not None and breaks(_attributes(node, onnx), node, constants):
                entry.broken[limit] += 1
    return [found[name] for name in sorted(found)]


def operators() -> dict[str, tuple[frozenset[str], str]]:
    """Types and limits of each operator that TensorRT documents, by name."""
    rows = [line.split("\t") for line in _FILE.read_text(encoding="utf-8").splitlines()]
    return {
        name: (frozenset(types.split()), rest[0] if rest else "") for name, types, *rest in rows[2:]
    }


def node_table(types: list[NodeType]) -> str:
    """The nodes as text, and how many of their types TensorRT does not take."""
    rows = [["node", "count", "TensorRT 10", "its limits"]]
    for entry in types:
        faults = ", ".join(f"{n} of {entry.count}: {what}" for what, n in entry.broken.items())
        rows.append([entry.name, str(entry.count), faults or "yes", entry.limit or ""])
    bad = sum(bool(entry.broken) for entry in types)
    return f"{format_table(rows)}\n{len(types)} types of nodes, {bad} that TensorRT does not take"


def _graphs(graph: Any) -> list[Any]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _graphs(attribute.g)
    return found


def _constants(graph: Any, onnx: Any) -> dict[str, NDArray]:
    """Small tensors that are known before the graph runs."""
    small = [
        t for t in graph.initializer if np.prod(t.dims, dtype=int) <= 16 and not t.external_data
    ]
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small}
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            known[node.output[0]] = onnx.numpy_helper.to_array(value)
    return known


def _types(graph: Any, onnx: Any) -> dict[str, str]:
    """TensorRT's names of the types of all tensors that are known."""
    found = {}
    for value in (*graph.input, *graph.value_info):
        name = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if name != "UNDEFINED":
            found[value.name] = _TYPES.get(name, name)
    return found


def _attributes(node: Any, onnx: Any) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _is_open(place: int) -> Callable[[dict[str, Any], Any, Constants], bool]:
    """Whether an input that there is, is no constant."""

    def breaks(attributes: dict[str, Any], node: Any, constants: Constants) -> bool:
        given = node.input[place] if len(node.input) > place else ""
        return bool(given) and given not in constants

    return breaks


def _top(attributes: dict[str, Any], node: Any, constants: Constants) -> bool:
    count = constants.get(node.input[1])
    return attributes.get("sorted", 1) != 1 or (count is not None and count.max() > MOST_TOPK)


def _shifts(attributes: dict[str, Any], node: Any, constants: Constants) -> bool:
    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    return zero is not None and bool(zero.any())


def _resizes(attributes: dict[str, Any], node: Any, constants: Constants) -> bool:
    mode, policy = attributes.get("mode", b"nearest"), attributes.get("keep_aspect_ratio_policy")
    return (
        mode not in (b"nearest", b"linear")
        or bool(attributes.get("antialias"))
        or policy not in (None, b"stretch")
    )


_RULES: dict[str, Callable[[dict[str, Any], Any, Constants], bool]] = {
    "TopK": _top,
    "CumSum": _is_open(1),
    "Squeeze": _is_open(1),
    "Unsqueeze": _is_open(1),
    "Slice": _is_open(3),
    "Pad": _is_open(3),
    "OneHot": _is_open(1),
    **{f"Reduce{kind}": _is_open(1) for kind in ("Max", "Min", "Sum", "Mean", "Prod")},
    "QuantizeLinear": _shifts,
    "DequantizeLinear": _shifts,
    "Resize": _resizes,
    "ScatterND": lambda attributes, node, constants: (
        attributes.get("reduction", b"none") != b"none"
    ),
    "LayerNormalization": lambda attributes, node, constants: len(node.output) > 1,
}
"""Whether a node breaks the limit of its operator, where the file tells."""
