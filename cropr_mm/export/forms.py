"""Encoders as functions of images that another runtime computes, for ``tools/benchmark.py``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.program import check_packages, quiet_exporters, trace, write_program
from cropr_mm.export.runtime.session import Session, open_session
from cropr_mm.export.source import check_exportable
from cropr_mm.export.verify import difference
from cropr_mm.profiling.compare import Entry
from cropr_mm.profiling.out_of_memory import NO_SUCH_FORM
from cropr_mm.reducers import KeepDecision

FORMATS = ("onnx", "openvino", "aoti")


class ExportedForm:
    """A module that another runtime computes; written at the first call for a shape of images.

    Args:
        module: From images (B, 3, H, W) to a tensor or a tuple of tensors, in float32.
        form: Format.
        folder: Where files go, one for each shape.

    Raises:
        SetupError: If it reduces tokens in a way that has no form elsewhere.
        ExportError: If a package is missing.
    """

    def __init__(self, module: nn.Module, form: str, folder: Path) -> None:
        check_packages(form)
        if isinstance(module, CroprViT):
            for reducer in module.reducers.values():
                check_exportable(reducer)
                if isinstance(reducer, KeepDecision):
                    reducer.needs = frozenset()  # its noise is for training
        self.module = module
        self.form = form
        self.folder = folder
        self.sessions: dict[tuple[int, ...], tuple[Session, int]] = {}

    def __call__(self, images: Tensor) -> list[Any]:
        """Outputs as arrays.

        Raises:
            RuntimeError: If it cannot be written or does not run, such that
                :func:`cropr_mm.profiling.out_of_memory.attempt` leaves it out of a benchmark.
        """
        try:
            session, _ = self._opened(images)
            return session.run(images.numpy())
        except Exception as error:  # exporters and runtimes have no common base
            reason = " ".join(str(error).split())[:200]
            raise RuntimeError(f"{NO_SUCH_FORM} {self.form}: {reason}") from error

    def bytes_on_disk(self, images: Tensor) -> int:
        """Size of everything that was written for images of this shape."""
        return self._opened(images)[1]

    def _opened(self, images: Tensor) -> tuple[Session, int]:
        shape = tuple(images.shape)
        if shape not in self.sessions:
            folder = self.folder / f"{self.form}_{id(self)}_{'x'.join(map(str, shape))}"
            folder.mkdir(parents=True)
            file = folder / {"onnx": "model.onnx", "openvino": "model.xml"}.get(
                self.form, "model.pt2"
            )
            with quiet_exporters():
                write_program(trace(self.module, (images,), False), self.form, file)
            session = open_session(file, self.form, torch.get_num_threads())
            size = sum(each.stat().st_size for each in folder.iterdir())
            self.sessions[shape] = session, size
        return self.sessions[shape]


def exported_forms(
    names: list[str], dtype: str, part: str, device: str, folder: Path
) -> dict[str, Callable[[nn.Module], ExportedForm]]:
    """What makes an exported form of a module, by format.

    Args:
        names: Formats out of FORMATS.
        dtype: That everything is timed in.
        part: That is timed.
        device: That it is timed on.
        folder: For the files.

    Raises:
        SetupError: If exported encoders cannot be timed in this way.
    """
    if names and (dtype, part, device) != ("fp32", "encoder", "cpu"):
        raise SetupError(
            f"{', '.join(names)}: expected encoders in fp32 on the CPU, got --part {part}, "
            f"--dtype {dtype}, --device {device}"
        )

    def maker(form: str) -> Callable[[nn.Module], ExportedForm]:
        return lambda module: ExportedForm(module, form, folder)

    return {name: maker(name) for name in names}


def differences(
    entries: Mapping[str, Entry], batch: Any, eager: Mapping[str, str]
) -> dict[str, float]:
    """Largest difference of each entry's outputs from the eager ones, as a share of the largest.

    Args:
        entries: By name.
        batch: What they are called with.
        eager: Name of the eager entry of each.
    """
    outputs = {name: _arrays(entry.run(batch)) for name, entry in entries.items()}
    return {name: difference(outputs[eager[name]], out)[0] for name, out in outputs.items()}


def _arrays(output: Any) -> list[Any]:
    parts = output if isinstance(output, list | tuple) else [output]
    return [x.float().cpu().numpy() if isinstance(x, Tensor) else x for x in parts]
