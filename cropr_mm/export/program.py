"""Write a part of a model in the format of a runtime."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.parts import WithKeptIds
from cropr_mm.export.runtime.session import need

LEAST_OPSET = 18
_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
    "aoti": (),
}


def check_packages(form: str) -> None:
    """Raise for a format whose packages are missing, or a torch that is too old.

    Raises:
        SetupError: With what to install.
        ExportError: The same.
    """
    if tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2]) < (2, 11):
        raise SetupError(f"export is tested with torch 2.11 or later, got {torch.__version__}")
    for package in _PACKAGES[form]:
        need(package)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Without what exporters say about their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def trace(part: nn.Module, example: tuple[Tensor, ...], dynamic_batch: bool) -> ExportedProgram:
    """The graph of a part.

    Args:
        part: From images to a tuple of tensors.
        example: Its inputs, images of the size that the graph is for first.
        dynamic_batch: Whether it takes any number of images.
    """
    shapes: Any = None
    if dynamic_batch:
        batch = torch.export.Dim("batch")
        shapes = tuple({0: batch} for _ in example)
        if isinstance(part, WithKeptIds):
            shapes = (shapes,)  # of *inputs
    with torch.no_grad():
        return torch.export.export(part, example, dynamic_shapes=shapes, strict=False)


def write_program(program: ExportedProgram, form: str, file: Path) -> None:
    """Write a graph in a format, as it is.

    Args:
        program: The graph.
        form: 'onnx', 'openvino', 'torch' or 'aoti'.
        file: Where to; some formats write further files beside it.
    """
    if form == "onnx":
        _onnx_program(program, LEAST_OPSET).save(str(file))
    elif form == "openvino":
        onnx = file.with_suffix(".source.onnx")
        _onnx_program(program, LEAST_OPSET).save(str(onnx))
        _convert_onnx(onnx, file, compress=False)
    elif form == "torch":
        torch.export.save(program, str(file))
    else:
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))


def write_pair(
    graph: WithKeptIds,
    example: tuple[Tensor, ...],
    dynamic_batch: bool,
    form: str,
    files: tuple[Path, Path],
    opset: int = LEAST_OPSET,
    compress: bool = False,
    change: Callable[[Path], None] | None = None,
) -> None:
    """Write a part without and with the ids that its steps keep.

    Args:
        graph: The part with kept ids.
        example: Its inputs, images of the size that the graph is for first; two of them where
            their number is open, since one would be taken for a constant.
        dynamic_batch: Whether it takes any number of images.
        form: 'onnx', 'openvino', 'torch' or 'aoti'.
        files: Where to; some formats write further files beside them.
        opset: Of ONNX.
        compress: Whether OpenVINO stores weights in float16.
        change: What is done to the ONNX file with kept ids before the other one is made of it.
    """
    shipped, kept = files
    program = trace(graph, example, dynamic_batch)
    number = len(program.graph_signature.user_outputs) - len(graph.backbone.reducers)
    if form == "onnx":
        _write_onnx(program, number, files, opset, change)
    elif form == "openvino":
        onnx = shipped.with_suffix(".source.onnx"), kept.with_suffix(".source.onnx")
        _write_onnx(program, number, onnx, opset, change)
        for source, file in zip(onnx, files, strict=True):
            _convert_onnx(source, file, compress)
    else:
        write_program(program, form, kept)
        write_program(trace(graph.part, example, dynamic_batch), form, shipped)


def _convert_onnx(source: Path, file: Path, compress: bool) -> None:
    """Make OpenVINO's file of an ONNX file, which is removed.

    OpenVINO reads graphs of torch too, but without rules for non-maximum suppression and for views
    of tables, such as those of relative positions.
    """
    openvino = need("openvino")
    openvino.save_model(openvino.convert_model(str(source)), str(file), compress)
    source.unlink()


def _write_onnx(
    program: ExportedProgram,
    number: int,
    files: tuple[Path, Path],
    opset: int,
    change: Callable[[Path], None] | None,
) -> None:
    """Write both files; the first has the first outputs only, and what leads to them."""
    onnx, ir, passes = need("onnx"), need("onnx_ir"), need("onnx_ir.passes.common")
    shipped, kept = files
    _onnx_program(program, opset).save(str(kept))
    if change is not None:
        change(kept)
    model = ir.load(kept)
    del model.graph.outputs[number:]
    passes.RemoveUnusedNodesPass()(model)
    ir.save(model, shipped)
    onnx.checker.check_model(str(shipped))


def _onnx_program(program: ExportedProgram, opset: int) -> Any:
    need("onnxscript")
    written = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
    assert written is not None
    for node in written.model.graph:
        if node.op_type == "TopK":  # TensorRT takes no other; in which order matters nowhere
            node.attributes["sorted"] = need("onnx_ir").AttrInt64("sorted", 1)
    return written
