"""Open an exported file in its runtime."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cropr_mm.export.runtime.errors import ExportError

Arrays = list[NDArray[Any]]


class Session(NamedTuple):
    """An open model.

    Attributes:
        run: From the inputs, images (B, 3, H, W) first, all float32, to the outputs.
        ran: What the runtime says about itself: its version, device, precision.
    """

    run: Callable[..., Arrays]
    ran: dict[str, str]


def need(package: str) -> ModuleType:
    """Import a package of the extra ``export``.

    Raises:
        ExportError: If it is missing; says what to install.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ExportError(
            f"expected the package {package}, which cannot be imported ({error}): "
            f"pip install {package}"
        ) from error


def open_session(file: Path, form: str, threads: int | None = None) -> Session:
    """Open a file of a format on the CPU.

    Args:
        file: The model.
        form: Format, see :data:`cropr_mm.export.runtime.card.FORMATS`.
        threads: Threads to compute with, or None for the runtime's choice.

    Raises:
        ExportError: If its package is missing, or it cannot be read.
    """
    if not file.is_file():
        raise ExportError(f"expected an exported model, found none at {file}")
    if form == "onnx":
        return _onnx(file, threads)
    if form == "openvino":
        return _openvino(file, threads)
    need("torch")
    session = import_module("cropr_mm.export.torch_session").open_session(file, form, threads)
    return session


def _onnx(file: Path, threads: int | None) -> Session:
    package = need("onnxruntime")
    options = package.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = package.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes have no common base
        raise ExportError(f"{file} is no model that ONNX Runtime can run: {error}") from error
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: NDArray[np.float32]) -> Arrays:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    ran = dict(runtime=f"onnxruntime {package.__version__}", device=session.get_providers()[0])
    return Session(run, {**ran, "precision": "float32"})


def _openvino(file: Path, threads: int | None) -> Session:
    package = need("openvino")
    # Its default may be bfloat16, by the processor.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = package.Core().compile_model(str(file), "CPU", settings)
    except RuntimeError as error:
        raise ExportError(f"{file} is no model that OpenVINO can run: {error}") from error

    def run(*inputs: NDArray[np.float32]) -> Arrays:
        results = compiled(list(inputs))
        return [np.array(results[i]) for i in range(len(results))]

    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    version = package.get_version()
    return Session(run, dict(runtime=f"openvino {version}", device="CPU", precision=precision))
