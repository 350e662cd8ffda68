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

_ONNX_PRECISION = {
    "fp32": "float32",
    "fp16": "float16 where the provider has a kernel, float32 elsewhere",
    "bf16": "bfloat16 where the provider has a kernel, float32 elsewhere",
    "int8": "int8 in linear layers of the encoder, float32 elsewhere",
}


class Session(NamedTuple):
    """An open model.

    Attributes:
        run: From the inputs, images (B, 3, H, W) first, all float32, to the outputs.
        ran: What the runtime says about itself: its version, device and precision, and what it
            could have used and did not.
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


def open_session(file: Path, form: str, threads: int | None = None, dtype: str = "fp32") -> Session:
    """Open a file of a format on the CPU.

    Args:
        file: The model.
        form: Format, see :data:`cropr_mm.export.runtime.card.FORMATS`.
        threads: Threads to compute with, or None for the runtime's choice.
        dtype: What its weights are stored in, see :data:`cropr_mm.export.runtime.card.DTYPES`.

    Raises:
        ExportError: If its package is missing, or it cannot be read.
    """
    if not file.is_file():
        raise ExportError(f"expected an exported model, found none at {file}")
    if form == "onnx":
        return _onnx(file, threads, dtype)
    if form == "openvino":
        return _openvino(file, threads, dtype)
    need("torch")
    open_in_torch = import_module("cropr_mm.export.torch_session").open_session
    return open_in_torch(file, form, threads, dtype)


def _onnx(file: Path, threads: int | None, dtype: str) -> Session:
    package = need("onnxruntime")
    options = package.SessionOptions()
    # Its threads would go on waiting for work at full load for milliseconds after each call.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = package.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes have no common base
        raise ExportError(f"{file} is no model that ONNX Runtime can run: {error}") from error
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: NDArray[np.float32]) -> Arrays:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    used = session.get_providers()
    unused = [name for name in package.get_available_providers() if name not in used]
    ran = dict(
        runtime=f"onnxruntime {package.__version__}",
        device=", ".join(used),
        precision=_ONNX_PRECISION[dtype],
        not_used=", ".join(unused),
    )
    return Session(run, ran)


def _openvino(file: Path, threads: int | None, dtype: str) -> Session:
    package = need("openvino")
    # Its default may be bfloat16, by the processor.
    asked = {"fp16": "f16", "bf16": "bf16"}.get(dtype, "f32")
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": asked}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        core = package.Core()
        compiled = core.compile_model(str(file), "CPU", settings)
    except RuntimeError as error:
        raise ExportError(f"{file} is no model that OpenVINO can run: {error}") from error

    def run(*inputs: NDArray[np.float32]) -> Arrays:
        results = compiled(list(inputs))
        return [np.array(results[i]) for i in range(len(results))]

    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    devices = [name for name in core.available_devices if name != "CPU"]
    ran = dict(
        runtime=f"openvino {package.get_version()}",
        device="CPU",
        precision=used if used == asked else f"{used}, where {asked} was asked for",
        not_used=", ".join(devices),
    )
    return Session(run, ran)
