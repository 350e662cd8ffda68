"""Export a trained model: write the file, verify it, describe it in a card."""

import copy
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor

from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.evaluation import TestSet, compare_metrics
from cropr_mm.export.hosts import Host, test_images
from cropr_mm.export.input_steps import input_size, input_steps, make_input, pad_divisor
from cropr_mm.export.options import (
    MOST_CALIBRATED,
    MOST_IMAGES,
    Options,
    check_detector,
    check_options,
    images_in,
)
from cropr_mm.export.parts import WithKeptIds, make_part
from cropr_mm.export.precision import HALF, lower_precision
from cropr_mm.export.program import write_pair
from cropr_mm.export.quantize import quantize
from cropr_mm.export.runtime.card import Card, Input, card_file
from cropr_mm.export.runtime.model import ExportedModel
from cropr_mm.export.runtime.session import open_session
from cropr_mm.export.source import Source, fix_size, load_source
from cropr_mm.export.speed import Speed, time_beside_dense
from cropr_mm.export.verification import Verification
from cropr_mm.export.verify import verify


class Exported(NamedTuple):
    """What :func:`export_model` did.

    Attributes:
        file: The model; its name ends in '.failed' where verification found faults.
        card: Its description.
        verification: What was compared and found.
        speed: Times of the file and of its dense twin, where asked for.
    """

    file: Path
    card: Card
    verification: Verification
    speed: Speed | None


def export_model(cfg: Config, checkpoint: str, out: Path, options: Options) -> Exported:
    """Export a model of a config and verify the file.

    Args:
        cfg: From :func:`cropr_mm.engine.config.load_config`.
        checkpoint: File of this model.
        out: File to write; its card and what else the format needs go beside it.
        options: How.

    Raises:
        SetupError: If config, checkpoint, data, size or output do not fit.
        ExportError: If a package is missing.
    """
    check_options(out, options)
    files = images_in(options.images, "--images", MOST_IMAGES)
    to_calibrate = images_in(options.calibrate, "--calibrate", MOST_CALIBRATED)
    source = load_source(cfg, checkpoint, options.progress, options.dense)
    to = find_input(source, options)
    fix_size(source.backbone, to.size)
    graph = WithKeptIds(make_part(source, options.part), source.backbone).eval()
    task = graph.part.task
    if task == "detector":
        check_detector(options)
    test_set = None
    if options.evaluate is not None:
        test_set = TestSet(cfg, options.evaluate, options.img_size)
    card = Card(
        format=options.form,
        task=task,
        input=to,
        classes=tuple(source.meta.get("classes") or ()),
        palette=tuple(tuple(color) for color in source.meta.get("palette") or ()),
        dtype=options.stored,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as temporary:
        folder = Path(temporary)
        shipped, kept = write_models(graph, card, options, folder, out.name, to_calibrate)
        files = {**test_images(to.size, folder, to.pads), **files}
        host = Host(source, options.img_size)
        found = verify(host, graph, shipped, kept, files, options.all_limits)
        if test_set is not None:
            found.metrics = compare_metrics(test_set, source, shipped)
        found.judge(options.all_limits)
        speed = None
        if options.rounds:
            twin = dense_twin(graph)
            model, _ = write_models(twin, card, options, folder / "dense", out.name, to_calibrate)
            speed = time_beside_dense(shipped, model, options.rounds)
        about = describe(source, options, checkpoint, found, shipped.session.ran, speed)
        card = replace(card, about=about)
        ending = ".failed" if found.faults else ""
        remove_old(out)
        for file in (folder / "shipped").iterdir():
            shutil.move(file, out.parent / f"{file.name}{ending}")
    target = out.with_name(f"{out.name}{ending}")
    card.write(card_file(target))
    return Exported(target, card, found, speed)


def write_models(
    graph: WithKeptIds,
    card: Card,
    options: Options,
    folder: Path,
    name: str,
    to_calibrate: Mapping[str, Path],
) -> tuple[ExportedModel, ExportedModel]:
    """Write a part without and with the ids that its steps keep, and open both files.

    Args:
        graph: The part in float32, with kept ids; not changed.
        card: Of the file.
        options: How to export.
        folder: Where to, in 'shipped' and 'kept'.
        name: Of both files.
        to_calibrate: Images that the ranges of int8 are found on.
    """
    pair = folder / "shipped" / name, folder / "kept" / name
    for file in pair:
        file.parent.mkdir(parents=True)
    if options.dtype in HALF and options.form != "openvino":  # which lowers the file's weights
        graph = copy.deepcopy(graph)
        lower_precision(graph.backbone, HALF[options.dtype])
    change = partial(quantize, card=card, pictures=list(to_calibrate.values()))
    write_pair(
        graph,
        examples(card),
        card.input.batch is None,
        options.form,
        pair,
        options.opset,
        compress=options.dtype == "fp16",
        change=change if to_calibrate else None,
    )
    shipped, kept = (
        ExportedModel(card, open_session(file, card.format, None, card.dtype)) for file in pair
    )
    return shipped, kept


def examples(card: Card) -> tuple[Tensor, ...]:
    """Inputs of a graph, with random images; two where their number is open."""
    images = torch.rand(card.input.batch or 2, 3, *card.input.size)
    if card.task != "detector":
        return (images,)
    return images, torch.tensor([card.input.size], dtype=torch.float32)


def dense_twin(graph: WithKeptIds) -> WithKeptIds:
    """The same part with an encoder that reduces nothing; shares all parameters."""
    dense = graph.backbone.unpruned()
    part = copy.deepcopy(graph.part, {id(graph.backbone): dense})
    return WithKeptIds(part, dense).eval()


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
    speed: Speed | None,
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
        limits=options.all_limits._asdict(),
        speed=None if speed is None else speed.as_dict(),
    )


def remove_old(out: Path) -> None:
    """Remove what an earlier export of the same name left, passed or failed."""
    for ending in ("", ".failed"):
        model = out.with_name(f"{out.name}{ending}")
        weights = out.with_name(f"{out.stem}.bin{ending}")
        for file in (model, card_file(model), *([weights] if out.suffix == ".xml" else [])):
            file.unlink(missing_ok=True)
