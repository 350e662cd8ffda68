"""Write a part of a model in the format of a runtime."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cropr_mm.engine.preflight import SetupError
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


def trace(part: nn.Module, example: Tensor, dynamic_batch: bool) -> ExportedProgram:
    """The graph of a part.

    Args:
        part: From images to a tuple of tensors.
        example: Images of the size that the graph is for.
        dynamic_batch: Whether it takes any number of images.
    """
    shapes: Any = None
    if dynamic_batch:
        if len(example) == 1:
            example = example.repeat(2, 1, 1, 1)  # one would be taken for a constant
        shapes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        return torch.export.export(part, (example,), dynamic_shapes=shapes, strict=False)


def write(program: ExportedProgram, form: str, file: Path, opset: int = LEAST_OPSET) -> None:
    """Write a graph.

    Args:
        program: The graph.
        form: 'onnx', 'openvino', 'torch' or 'aoti'.
        file: Where to; some formats write further files beside it.
        opset: Of ONNX.
    """
    if form == "onnx":
        onnx = need("onnx")
        graph = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
        assert graph is not None
        graph.save(str(file))
        onnx.checker.check_model(str(file))
    elif form == "openvino":
        openvino = need("openvino")
        openvino.save_model(openvino.convert_model(program), str(file), compress_to_fp16=False)
    elif form == "torch":
        torch.export.save(program, str(file))
    else:
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))
