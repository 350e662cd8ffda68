"""Exported programs that torch itself runs: torch.export's, and those compiled by AOTInductor."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cropr_mm.export.runtime.errors import ExportError
from cropr_mm.export.runtime.session import Arrays, Session

_PRECISION = {
    "fp32": "float32",
    "fp16": "float16 in the encoder, float32 elsewhere",
    "bf16": "bfloat16 in the encoder, float32 elsewhere",
}


def open_session(file: Path, form: str, threads: int | None, dtype: str) -> Session:
    """Open a ``.pt2`` file on the CPU; arguments as in the runtime's function of that name.

    Raises:
        ExportError: If it cannot be read.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        program: Any
        if form == "aoti":
            program = torch._inductor.aoti_load_package(str(file))
        else:
            program = torch.export.load(file).module()
    except Exception as error:  # damaged archives raise all kinds
        raise ExportError(f"{file} is no program that torch can run: {error}") from error

    def run(*inputs: NDArray[np.float32]) -> Arrays:
        # A compiled program reads other memory formats wrongly.
        tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in inputs]
        try:
            with torch.no_grad():
                outputs = program(*tensors)
        except RuntimeError as error:
            shapes = [tuple(x.shape) for x in tensors]
            raise ExportError(f"{file} does not run on inputs {shapes}: {error}") from error
        return [output.numpy() for output in outputs]

    ran = dict(runtime=f"torch {torch.__version__}", device="CPU", precision=_PRECISION[dtype])
    return Session(run, ran)
