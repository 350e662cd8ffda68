"""Tables and metafiles of the folders of configs: costs are counted, metrics are published."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config

from cropr_mm.profiling.encoder_cost import encoder_cost
from cropr_mm.registry import MODELS
from tables.blocks import ROOT
from tables.published import COSTS, ENCODER_ONLY_COSTS, HYBRID_COSTS, RESULTS
from tables.records import markdown

CONFIGS = ROOT / "configs"
FOLDERS = ("detection", "segmentation", "classification", "methods", "demo")
REDUCTION = ("reducer", "schedule", "fusion")
STAGED = {"cropr_mm.CroprPVT": "PVT v2", "cropr_mm.CroprCvT": "CvT"}
HOST_BATCHES = {"8xb1": 8, "8xb2": 16}
"""Images in a step of recipes of mmdet and mmseg, which say it in the names of their configs."""


@dataclass(frozen=True)
class Encoder:
    """What an encoder costs: counts of multiply-adds of linear layers, for one image.

    Attributes:
        size: Height and width of an image, in pixels.
        pruned: Share of patch tokens gone before the last block.
        macs: Multiply-adds.
        macs_total: Multiply-adds, with those of attention.
        params: Parameters at inference.
    """

    size: tuple[int, int]
    pruned: float
    macs: int
    macs_total: int
    params: int


def configs(folder: str) -> str:
    """Every config of a folder: encoder, size, costs, published metric and command."""
    head = ["config", "encoder", "published metric", "command"]
    head += ["image, px", "pruned, %", "GMAC, dense", "GMAC, pruned"]
    return markdown(head, [_cells(path) for path in paths(folder)], left=4)


def published_costs() -> str:
    """Counted multiply-adds beside the published ones."""
    head = ["encoder", "config", "GMAC linear of the encoder, counted", "published"]
    rows = [
        [label, place, _giga(cost.macs), published]
        for label, place, cost, published in _beside(COSTS)
    ]
    return markdown(head, rows, left=2)


def hybrid_costs() -> str:
    """The same for encoders whose papers count the multiply-adds of attention too."""
    head = ["encoder", "config", "GMAC linear", "GMAC with attention", "published GFLOPs"]
    rows = [
        [label, place, _giga(cost.macs), _giga(cost.macs_total), published]
        for label, place, cost, published in _beside(HYBRID_COSTS)
    ]
    return markdown(head, rows, left=2)


def encoder_only_costs() -> str:
    """The same for models that are nothing but their encoder, with parameters."""
    head = ["model", "config", "M parameters", "GMAC linear", "GMAC with attention"]
    rows = [
        [label, place, f"{cost.params / 1e6:.1f}", _giga(cost.macs), _giga(cost.macs_total), known]
        for label, place, cost, known in _beside(ENCODER_ONLY_COSTS)
    ]
    return markdown([*head, "published GFLOPs"], rows, left=2)


def _beside(published: dict[str, tuple[str, str]]) -> list[tuple[str, str, Encoder, str]]:
    """Label, place, counted cost and published cost of each config."""
    found = {path.stem: path for folder in FOLDERS for path in paths(folder)}
    return [
        (label, f"`{found[name].relative_to(CONFIGS).as_posix()}`", encoder(found[name]), cost)
        for name, (label, cost) in published.items()
    ]


def paths(folder: str) -> list[Path]:
    """Configs of a folder; those of EVA-02-L stand outside of theirs."""
    found = sorted((CONFIGS / folder).glob("*.py"))
    return sorted(CONFIGS.glob("*.py")) + found if folder == "detection" else found


def command(path: Path) -> str:
    """How a config is trained with the batch of its recipe."""
    cfg = _read(path)
    name = path.relative_to(ROOT).as_posix()
    share = cfg.train_dataloader.batch_size * cfg.optim_wrapper.get("accumulative_counts", 1)
    batch = (cfg.get("auto_scale_lr") or {}).get("base_batch_size", share)
    for part, number in HOST_BATCHES.items():
        batch = number if part in _inherited(path) else batch
    gpus = batch // share
    return f"python tools/train.py {name}" if gpus == 1 else f"tools/dist_train.sh {name} {gpus}"


def metafile(folder: str) -> str:
    """The folder's ``metafile.yml``, in OpenMMLab's form."""
    models = [_model(path) for path in paths(folder)]
    collection = dict(Name="cropr_mm", README=f"configs/{folder}/README.md")
    text = yaml.safe_dump(dict(Collections=[collection], Models=models), sort_keys=False)
    return f"# Written by make docs. Metrics are published ones; there are no weights.\n{text}"


def metafiles() -> dict[Path, str]:
    """Text of every metafile by its path."""
    return {CONFIGS / folder / "metafile.yml": metafile(folder) for folder in FOLDERS}


@cache
def encoder(path: Path, dense: bool = False) -> Encoder:
    """Cost of a config's encoder, or of the same without reduction."""
    cfg = _read(path).model.backbone.to_dict()
    if dense:
        cfg = {key: value for key, value in cfg.items() if key not in REDUCTION}
    return _count(_Hashed(cfg))


class _Hashed(dict):
    """A config that is equal to another one with the same text."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(self))


@cache
def _count(cfg: _Hashed) -> Encoder:
    with torch.device("meta"):
        backbone = MODELS.build(dict(cfg)).eval()
    cost = encoder_cost(backbone)
    height, width = backbone.patch_grid(backbone.img_size)
    prefix = backbone.tokens_per_block()[0] - height * width
    left = min(backbone.tokens_per_block()) - prefix
    share = 1 - left / (height * width)
    size = tuple(backbone.img_size)
    return Encoder(size, share, cost.macs.linear, cost.macs.total, cost.params_deployed)


@cache
def _read(path: Path) -> Config:
    return Config.fromfile(path)


def _cells(path: Path) -> list[str]:
    folder = path.parent
    link = path.name if folder != CONFIGS else f"../{path.name}"
    reduced, dense = encoder(path), encoder(path, dense=True)
    names, values, _ = _published(path)
    metric = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    is_dense = path.stem.startswith("unpruned")
    return [
        *(f"[{path.stem}]({link})", _arch(path), metric or "-", f"`{command(path)}`"),
        "x".join(map(str, reduced.size)),
        "-" if is_dense else f"{100 * reduced.pruned:.0f}",
        _giga(dense.macs),
        "-" if is_dense else _giga(reduced.macs),
    ]


def _model(path: Path) -> dict[str, Any]:
    cost = encoder(path)
    model: dict[str, Any] = {
        "Name": path.stem,
        "In Collection": "cropr_mm",
        "Config": path.relative_to(ROOT).as_posix(),
        "Metadata": {
            "Encoder": _arch(path),
            "Encoder MACs": cost.macs,
            "Encoder parameters": cost.params,
        },
    }
    if path.stem in RESULTS:
        (task, dataset, names), values, source = RESULTS[path.stem]
        metrics = dict(zip(names, values, strict=True))
        model["Results"] = [dict(Task=task, Dataset=dataset, Metrics=metrics, Published=source)]
    return model


def _published(path: Path) -> tuple[tuple[str, ...], tuple[float, ...], str]:
    if path.stem not in RESULTS:
        return (), (), ""
    (_, _, names), values, source = RESULTS[path.stem]
    return names, values, source


def _arch(path: Path) -> str:
    backbone = _read(path).model.backbone
    arch = backbone.arch
    if isinstance(arch, str):
        return arch
    if backbone.type in STAGED:
        widths = arch.embed_dims
        blocks = f"{sum(arch.depths)} blocks, widths {widths[0]} to {widths[-1]}"
        return f"{STAGED[backbone.type]}, {blocks}"
    stem = "PS-ViT" if arch.get("sampling_steps") else "LV-ViT"
    family = stem if arch.get("conv_stem") else "ViT"
    return f"{family}, {arch.depth} blocks, width {arch.embed_dim}"


def _inherited(path: Path) -> str:
    dense = path.with_name(f"unpruned_{path.stem.partition('_')[2]}.py")
    return "".join(file.read_text() for file in (path, dense) if file.exists())


def _giga(macs: int) -> str:
    return f"{macs / 1e9:#.4g}".rstrip(".")
