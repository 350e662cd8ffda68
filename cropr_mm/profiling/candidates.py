"""What ``tools/benchmark.py`` times: models of configs and their baselines, on random images."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import TRANSFORMS
from timm.layers import to_2tuple
from torch import Tensor, nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.backbones.find import backbone_entry
from cropr_mm.build import build_model
from cropr_mm.checkpoints import safe_load
from cropr_mm.checkpoints.content import as_checkpoint
from cropr_mm.checkpoints.load import check_names, check_shapes
from cropr_mm.checkpoints.values import check_values
from cropr_mm.layers.arch import resolve_arch
from cropr_mm.profiling.baselines import BASELINES
from cropr_mm.profiling.compare import Entry, encoder_entry, model_entry
from cropr_mm.profiling.run_mode import Mode

Form = Callable[[nn.Module], Callable[[Tensor], object]]
"""Makes a function of images (B, 3, H, W) of an encoder."""

OF_OURS = ("dense", "random")
"""Baselines that can stand inside a whole model."""

_DETECTS = {"rpn_head", "bbox_head"}  # parts of mmdet's models


def make_entries(
    configs: Mapping[str, Config],
    mode: Mode,
    *,
    part: str = "encoder",
    baselines: Sequence[str] = (),
    compile: bool = False,
    forms: Mapping[str, Form] | None = None,
    checkpoint: str | None = None,
) -> dict[str, Entry]:
    """Models of configs, stripped for inference, and baselines of the first.

    Args:
        configs: By name; each with a ``cropr_mm.CroprViT`` for backbone.
        mode: Precision and place that they are brought to.
        part: 'encoder' or 'model'.
        baselines: Names out of BASELINES, made of the first config's encoder.
        compile: Whether to add the compiled form of each.
        forms: Further forms of each encoder by name, such as other runtimes'.
        checkpoint: File with all weights of the model, for one config. Default: random weights.

    Returns:
        Entries by name: 'dense' first if asked for, then the configs, the other baselines, and
        after each 'NAME, compiled' and 'NAME, FORM'.

    Raises:
        ValueError: If a name is unknown or does not go with the part, precision or encoder, or the
            checkpoint not with the configs.
        CheckpointError: If the file is damaged or holds code.
    """
    _check(configs, part, baselines, mode)
    if checkpoint is not None and len(configs) > 1:
        raise ValueError(f"expected one config for a checkpoint, got {', '.join(configs)}")
    built = {name: _build(cfg) for name, cfg in configs.items()}
    if checkpoint is not None:
        _load(next(iter(built.values())), checkpoint)
    models = {name: mode.place(model) for name, model in built.items()}
    encoders: dict[str, CroprViT] = {name: model.backbone for name, model in models.items()}
    first = next(iter(models))
    arch = configs[first].model.backbone.arch
    made = {name: mode.place(BASELINES[name](encoders[first], arch)) for name in baselines}
    for encoder in encoders.values():
        encoder.switch_to_deploy()
    modules: dict[str, nn.Module] = {**encoders, **made}
    stands_for = {**encoders, **dict.fromkeys(made, encoders[first])}
    stands_for |= {name: made[name] for name in OF_OURS if name in made}
    if "timm" in made:
        stands_for["timm"] = made["dense"] if "dense" in made else encoders[first].unpruned()
    order = dict.fromkeys([*(["dense"] if "dense" in made else []), *encoders, *made])
    entries = {}
    for name in order:
        for compiled in (False, True) if compile else (False,):
            label = f"{name}, compiled" if compiled else name
            if part == "encoder":
                entries[label] = encoder_entry(modules[name], stands_for[name], mode, compiled)
            else:
                model = models.get(name, models[first])
                entries[label] = model_entry(model, modules[name], mode, compiled)
        for form, make in (forms or {}).items():
            timed = encoder_entry(modules[name], stands_for[name], mode)
            entries[f"{name}, {form}"] = replace(timed, call=make(modules[name]))
    return entries


def native_size(cfg: Config) -> tuple[int, int]:
    """Height and width in pixels of the images that a config's encoder is made for.

    Raises:
        ValueError: If the config has no ``cropr_mm.CroprViT``.
    """
    backbone = _backbone(cfg)
    return to_2tuple(backbone.get("img_size") or resolve_arch(backbone.arch).img_size)


def with_image_size(cfg: Config, size: tuple[int, int]) -> Config:
    """The same config for images of another height and width, in pixels; errors as there."""
    changed = copy.deepcopy(cfg)
    _backbone(changed).img_size = tuple(size)
    return changed


def random_images(batch_size: int, size: tuple[int, int], mode: Mode) -> Tensor:
    """Images as encoders get them, shape (B, 3, H, W)."""
    return mode.place(torch.randn(batch_size, 3, *size))


def random_batch(cfg: Config, batch_size: int, size: tuple[int, int]) -> dict[str, Any]:
    """Images as a test step gets them, packed as the config's test pipeline packs its own."""
    pack = TRANSFORMS.build(cfg.test_dataloader.dataset.pipeline[-1])
    samples = []
    for i in range(batch_size):
        picture = torch.randint(0, 256, (*size, 3), dtype=torch.uint8).numpy()
        shape = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        samples.append(pack(dict(img=picture, img_id=i, img_path="", flip=False, **shape)))
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def _check(configs: Mapping[str, Config], part: str, baselines: Sequence[str], mode: Mode) -> None:
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise ValueError(f"unknown baseline {unknown[0]}; known: {', '.join(BASELINES)}")
    if part == "model":
        others = [name for name in baselines if name not in OF_OURS]
        if others:
            raise ValueError(
                f"expected baselines of ours ({', '.join(OF_OURS)}) for whole models, got {others}"
            )
        if mode.dtype not in ("fp32", "amp"):
            raise ValueError("heads of the host libraries run in fp32 or amp, got " + mode.dtype)
        detectors = [name for name, cfg in configs.items() if _DETECTS & cfg.model.keys()]
        if detectors and (mode.dtype, mode.device) == ("amp", "cpu"):
            raise ValueError(
                f"{detectors[0]} is a detector, and mmcv's non-maximum suppression on a CPU takes "
                "float32 only: expected dtype fp32, got amp"
            )


def _build(cfg: Config) -> nn.Module:
    _backbone(cfg)
    return build_model(cfg)


def _backbone(cfg: Config) -> ConfigDict:
    return backbone_entry(cfg, CroprViT)


def _load(model: nn.Module, checkpoint: str) -> None:
    weights = as_checkpoint(safe_load(checkpoint), checkpoint)["state_dict"]
    wanted = model.state_dict()
    missing, unexpected = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    check_names(missing, unexpected, f"{checkpoint} is not a checkpoint of this config")
    check_shapes(weights, wanted, checkpoint)
    check_values(weights, wanted, checkpoint)
    model.load_state_dict(weights)
