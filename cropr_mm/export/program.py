"""Write a part of a model in the format of a runtime."""

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
    "openvino": ("openvino",),
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


def write_pair(
    graph: WithKeptIds,
    example: tuple[Tensor, ...],
    dynamic_batch: bool,
    form: str,
    files: tuple[Path, Path],
    opset: int = LEAST_OPSET,
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
    """
    shipped, kept = files
    program = trace(graph, example, dynamic_batch)
    number = len(program.graph_signature.user_outputs) - len(graph.backbone.reducers)
    if form == "onnx":
        _write_onnx(program, number, shipped, kept, opset)
    elif form == "openvino" and graph.part.task == "detector":
        # OpenVINO has rules for non-maximum suppression in ONNX only.
        onnx = shipped.with_suffix(".onnx"), kept.with_suffix(".onnx")
        _write_onnx(program, number, *onnx, opset)
        openvino = need("openvino")
        for source, file in zip(onnx, files, strict=True):
            model = openvino.convert_model(str(source))
            openvino.save_model(model, str(file), compress_to_fp16=False)
            source.unlink()
    elif form == "openvino":
        _write_openvino(program, number, shipped, kept)
    else:
        bare = trace(graph.part, example, dynamic_batch)
        for each, file in ((bare, shipped), (program, kept)):
            if form == "torch":
                torch.export.save(each, str(file))
            else:
                torch._inductor.aoti_compile_and_package(each, package_path=str(file))


def _write_onnx(
    program: ExportedProgram, number: int, shipped: Path, kept: Path, opset: int
) -> None:
    """Write both files; the first has the first outputs only, and what leads to them."""
    need("onnxscript")
    onnx, passes = need("onnx"), need("onnx_ir.passes.common")
    graph = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
    assert graph is not None
    graph.save(str(kept))
    del graph.model.graph.outputs[number:]
    passes.RemoveUnusedNodesPass()(graph.model)
    graph.save(str(shipped))
    onnx.checker.check_model(str(shipped))


def _write_openvino(program: ExportedProgram, number: int, shipped: Path, kept: Path) -> None:
    openvino = need("openvino")
    model = openvino.convert_model(program)
    openvino.save_model(model, str(kept), compress_to_fp16=False)
    outputs = openvino.Model(model.get_results()[:number], model.get_parameters())
    openvino.save_model(outputs, str(shipped), compress_to_fp16=False)
