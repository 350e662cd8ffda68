"""How a model is to be exported, and what of it can be known to be wrong before it is built."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.limits import LIMITS, Limits
from cropr_mm.export.program import LEAST_OPSET, check_packages
from cropr_mm.export.runtime.card import FORMATS

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MOST_IMAGES = 8
"""Of a folder to verify with."""
MOST_CALIBRATED = 64
"""Images of a folder to calibrate with."""


class Options(NamedTuple):
    """How to export.

    Attributes:
        form: Format, of :data:`cropr_mm.export.runtime.card.FORMATS`.
        part: 'encoder' or 'model'.
        img_size: Height and width of the input; None for that of the test pipeline, or the
            encoder's own.
        batch: Images of one call, or None for any number.
        opset: Of ONNX.
        progress: Share of the full reduction, or None for all of it.
        dense: Whether to export the encoder without reduction.
        dtype: What the encoder stores and computes in: 'fp32', 'fp16' or 'bf16'.
        calibrate: Folder of images that the ranges of int8 are found on, or None for no int8.
        images: Folder of images to verify with, besides random ones; or None.
        evaluate: Test images that the config's metrics are computed on, on both sides; or None.
        rounds: Timed calls of the file and of its dense twin in the same format; 0 times nothing.
        limits: Limits by name that are not those of the stored type.
    """

    form: str
    part: str = "model"
    img_size: tuple[int, int] | None = None
    batch: int | None = 1
    opset: int = LEAST_OPSET
    progress: float | None = None
    dense: bool = False
    dtype: str = "fp32"
    calibrate: Path | None = None
    images: Path | None = None
    evaluate: int | None = None
    rounds: int = 0
    limits: Mapping[str, float] = MappingProxyType({})

    @property
    def stored(self) -> str:
        """What linear layers of the encoder are stored in, of the card's ``DTYPES``."""
        return self.dtype if self.calibrate is None else "int8"

    @property
    def all_limits(self) -> Limits:
        """What may differ."""
        return LIMITS[self.stored]._replace(**self.limits)


def check_options(out: Path, options: Options) -> None:
    """Check everything that can be known before the model is built.

    Raises:
        SetupError: If something does not fit.
        ExportError: If a package is missing.
    """
    ending = FORMATS[options.form]
    if out.suffix != ending:
        raise SetupError(f"expected a name that ends in {ending} for {options.form}, got {out}")
    if options.form == "openvino" and options.dtype == "bf16":
        raise SetupError("OpenVINO's files store fp32 or fp16: expected one of these, got bf16")
    if options.calibrate is not None and options.dtype != "fp32":
        raise SetupError(f"int8 starts from fp32: expected no --dtype, got {options.dtype}")
    if options.calibrate is not None and options.form not in ("onnx", "openvino"):
        raise SetupError(f"--calibrate goes with onnx and openvino, got {options.form}")
    check_packages(options.form)
    if options.calibrate is not None:
        check_packages("onnx")
    if options.opset < LEAST_OPSET:
        raise SetupError(f"expected --opset {LEAST_OPSET} or later, got {options.opset}")
    if options.batch is not None and options.batch < 1:
        raise SetupError(f"expected --batch of at least 1, got {options.batch}")
    if options.progress is not None and not 0 <= options.progress <= 1:
        raise SetupError(f"expected --progress in [0, 1], got {options.progress}")
    if options.rounds < 0:
        raise SetupError(f"expected --rounds of at least 0, got {options.rounds}")
    if options.rounds and options.dense:
        raise SetupError("--rounds times a file against its dense twin: expected no --dense")
    if options.evaluate is not None and options.part == "encoder":
        raise SetupError("an encoder alone has no metric: expected --evaluate with --part model")
    if options.dense and options.progress is not None:
        raise SetupError("expected --dense or --progress, got both")
    check_writable("OUT", out)


def check_detector(options: Options) -> None:
    """Raise SetupError for what whole detectors cannot be exported with."""
    if options.form not in ("onnx", "openvino"):
        raise SetupError(
            f"whole detectors are exported to onnx and openvino, got {options.form}: --part "
            "encoder exports the encoder of any model"
        )
    check_packages("onnx")  # OpenVINO reads detectors from there
    if options.batch != 1:
        raise SetupError("whole detectors take one image a call: expected --batch 1")


def images_in(folder: Path | None, option: str, most: int) -> dict[str, Path]:
    """The first images of a folder by name; none without a folder.

    Raises:
        SetupError: If there is a folder and no image in it.
    """
    if folder is None:
        return {}
    found = sorted(file for file in folder.glob("*") if file.suffix.lower() in _IMAGES)
    if not found:
        raise SetupError(f"{option} expects a folder with images, found none in {folder}")
    return {file.name: file for file in found[:most]}
