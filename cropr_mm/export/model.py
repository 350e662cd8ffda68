"""Export a trained model: write the file, verify it, describe it in a card."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.hosts import Host, test_images
from cropr_mm.export.input_steps import input_size, input_steps, make_input, pad_divisor
from cropr_mm.export.limits import Limits
from cropr_mm.export.parts import WithKeptIds, make_part
from cropr_mm.export.program import LEAST_OPSET, check_packages, write_pair
from cropr_mm.export.runtime.card import FORMATS, Card, Input, card_file
from cropr_mm.export.runtime.model import ExportedModel
from cropr_mm.export.runtime.session import open_session
from cropr_mm.export.source import Source, fix_size, load_source
from cropr_mm.export.verify import Verification, verify

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


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
        images: Folder of images to verify with, besides random ones; or None.
        max_images: Most images of that folder.
        limits: What may differ.
    """

    form: str
    part: str = "model"
    img_size: tuple[int, int] | None = None
    batch: int | None = 1
    opset: int = LEAST_OPSET
    progress: float | None = None
    dense: bool = False
    images: Path | None = None
    max_images: int = 8
    limits: Limits = Limits()


class Exported(NamedTuple):
    """What :func:`export_model` did.

    Attributes:
        file: The model; its name ends in '.failed' where verification found faults.
        card: Its description.
        verification: What was compared and found.
    """

    file: Path
    card: Card
    verification: Verification


def export_model(cfg: Config, checkpoint: str, out: Path, options: Options) -> Exported:
    """Export a model of a config and verify the file.

    Args:
        cfg: From :func:`cropr_mm.engine.config.load_config`.
        checkpoint: File of this model.
        out: File to write; its card and what else the format needs go beside it.
        options: How.

    Raises:
        SetupError: If config, checkpoint, size or output do not fit.
        ExportError: If a package is missing.
    """
    files = check_options(out, options)
    source = load_source(cfg, checkpoint, options.progress, options.dense)
    to = find_input(source, options)
    fix_size(source.backbone, to.size)
    part = make_part(source, options.part).eval()
    graph = WithKeptIds(part, source.backbone).eval()
    card = Card(
        format=options.form,
        task=part.task,
        input=to,
        classes=tuple(source.meta.get("classes") or ()),
        palette=tuple(tuple(color) for color in source.meta.get("palette") or ()),
    )
    example = [torch.rand(to.batch or 2, 3, *to.size)]
    if part.task == "detector":
        check_detector_options(options)
        example.append(torch.tensor([to.size], dtype=torch.float32))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as temporary:
        folder = Path(temporary)
        pair = folder / "shipped" / out.name, folder / "kept" / out.name
        for file in pair:
            file.parent.mkdir()
        write_pair(graph, tuple(example), to.batch is None, options.form, pair, options.opset)
        shipped, kept = (ExportedModel(card, open_session(file, options.form)) for file in pair)
        files = {**test_images(to.size, folder, to.pads), **files}
        host = Host(source, options.img_size)
        found = verify(host, graph, shipped, kept, files, options.limits)
        about = describe(source, options, checkpoint, found, shipped.session.ran)
        card = replace(card, about=about)
        ending = ".failed" if found.faults else ""
        remove_old(out)
        for file in (folder / "shipped").iterdir():
            shutil.move(file, out.parent / f"{file.name}{ending}")
    target = out.with_name(f"{out.name}{ending}")
    card.write(card_file(target))
    return Exported(target, card, found)


def check_options(out: Path, options: Options) -> dict[str, Path]:
    """Check everything that can be known before the model is built.

    Returns:
        The images of the folder, by name.

    Raises:
        SetupError: If something does not fit.
        ExportError: If a package is missing.
    """
    ending = FORMATS[options.form]
    if out.suffix != ending:
        raise SetupError(f"expected a name that ends in {ending} for {options.form}, got {out}")
    check_packages(options.form)
    if options.opset < LEAST_OPSET:
        raise SetupError(f"expected --opset {LEAST_OPSET} or later, got {options.opset}")
    if options.batch is not None and options.batch < 1:
        raise SetupError(f"expected --batch of at least 1, got {options.batch}")
    if options.progress is not None and not 0 <= options.progress <= 1:
        raise SetupError(f"expected --progress in [0, 1], got {options.progress}")
    check_writable("OUT", out)
    if options.images is None:
        return {}
    found = sorted(f for f in options.images.glob("*") if f.suffix.lower() in _IMAGES)
    if not found:
        raise SetupError(f"--images expects a folder with images, found none in {options.images}")
    return {file.name: file for file in found[: options.max_images]}


def check_detector_options(options: Options) -> None:
    """Raise SetupError for what whole detectors cannot be exported with."""
    if options.form not in ("onnx", "openvino"):
        raise SetupError(
            f"whole detectors are exported to onnx and openvino, got {options.form}: --part "
            "encoder exports the encoder of any model"
        )
    if options.batch != 1:
        raise SetupError("whole detectors take one image a call: expected --batch 1")


def find_input(source: Source, options: Options) -> Input:
    """Input of the graph.

    Raises:
        SetupError: If pipeline or preprocessor have no form in a card, or the size does not fit.
    """
    steps = input_steps(source.pipeline, options.img_size)
    preprocessor = source.model.data_preprocessor
    divisor = pad_divisor(preprocessor)
    size = options.img_size or input_size(steps, divisor) or source.backbone.native_size
    try:
        source.backbone.plan(source.backbone.patch_grid(size))
    except ValueError as error:
        raise SetupError(f"--img-size {size[0]} {size[1]}: {error}") from error
    return make_input(preprocessor, steps, size, options.batch)


def describe(
    source: Source,
    options: Options,
    checkpoint: str,
    found: Verification,
    ran: Mapping[str, str],
) -> dict[str, Any]:
    """What a card says besides what a program needs."""
    backbone = source.backbone
    reducers: Sequence[str] = sorted({type(r).__name__ for r in backbone.reducers.values()})
    return dict(
        cropr_mm=version("cropr_mm"),
        torch=torch.__version__,
        model=type(source.model).__name__,
        checkpoint=Path(checkpoint).name,
        reducers=reducers,
        progress=backbone.progress,
        tokens_per_block=backbone.tokens_per_block(),
        opset=options.opset if options.form == "onnx" else None,
        ran=dict(ran),
        verification=asdict(found),
        limits=options.limits._asdict(),
    )


def remove_old(out: Path) -> None:
    """Remove what an earlier export of the same name left, passed or failed."""
    for ending in ("", ".failed"):
        model = out.with_name(f"{out.name}{ending}")
        weights = out.with_name(f"{out.stem}.bin{ending}")
        for file in (model, card_file(model), *([weights] if out.suffix == ".xml" else [])):
            file.unlink(missing_ok=True)
