"""Checks of heads on the encoder's output, and of the labels that they learn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.find import backbone_class
from cropr_mm.engine.preflight.data import built_datasets
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.model import parts_at

_HEADS = ("head", "decode_head", "auxiliary_head")
_MAPS = ("featmap", "raw")


def check_model_config(model: Mapping[str, Any]) -> None:
    """Raise for what a config has to leave out when its backbone becomes one that reduces tokens.

    Raises:
        SetupError: If the model names weights for its backbone in a way of its own, trains a
            detector as student and teacher, or pads images in two ways.
    """
    detector = model.get("detector") or {}
    if model.get("semi_train_cfg") is not None and backbone_class(detector.get("backbone")):
        raise SetupError(
            f"{model.get('type')} runs its encoder on several lists of images in one pass, which "
            "auxiliary losses cannot follow: expected a detector without semi_train_cfg"
        )
    _check_padding(model.get("data_preprocessor") or {})
    backbone = model.get("backbone") or {}
    if backbone_class(backbone) is not None and model.get("pretrained") is not None:
        raise SetupError(
            f"model.pretrained={model['pretrained']!r} is of the backbone that was replaced: set "
            "model.pretrained=None, and backbone.init_cfg=dict(type='Pretrained', checkpoint=...) "
            "for weights of the encoder"
        )


def _check_padding(preprocessor: Mapping[str, Any]) -> None:
    """Images of mmseg get one size or multiples of a number, not both."""
    for where, settings in (
        ("model.data_preprocessor", preprocessor),
        ("model.data_preprocessor.test_cfg", preprocessor.get("test_cfg") or {}),
    ):
        size, divisor = settings.get("size"), settings.get("size_divisor")
        if size is not None and divisor is not None:
            raise SetupError(
                f"{where}: expected size or size_divisor, got size={size} and size_divisor="
                f"{divisor}; a config that inherits size sets size=None"
            )


def check_channels(model: nn.Module) -> None:
    """Necks, or heads without a neck, read the encoder's channels, classifiers pooled ones.

    Args:
        model: Built model; ``neck`` and the usual heads of mmpretrain and mmseg are looked at.

    Raises:
        SetupError: If one expects other channels or more outputs than there are, a classifier gets
            a map or a segmenter none, a softmax has fewer logits than classes, tokens exit with
            logits that no head reads, or windows of a sliding test do not fit the schedule.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, ReducingBackbone):
        return
    _check_exits(model, backbone)
    neck = getattr(model, "neck", None)
    paths = _HEADS if neck is None else ("neck",)
    readers = [part for path in paths for part in parts_at(model, path)]
    for name, reader in readers if backbone.out_channels else []:
        _check_reader(name, reader, backbone.out_channels)
    for name, head in (part for path in _HEADS for part in parts_at(model, path)):
        _check_logits(head, name)
    if neck is not None:
        return
    _check_output(model, backbone)
    test = getattr(model, "test_cfg", None) or {}
    if test.get("mode") == "slide":
        _check_windows(backbone, tuple(test["crop_size"]))


def _check_reader(name: str, reader: Any, outputs: Sequence[int]) -> None:
    """A neck or a head reads outputs that are there, of as many channels as they have."""
    channels = getattr(reader, "in_channels", ())
    if isinstance(channels, int):
        indices, channels = getattr(reader, "in_index", -1), [channels]
    else:
        indices = getattr(reader, "in_index", range(len(channels)))
    indices = [indices] if isinstance(indices, int) else list(indices)
    last = max(indices, default=0)
    if last >= len(outputs):
        raise SetupError(
            f"{name} reads output {last} of the encoder (counted from 0), which has only "
            f"{len(outputs)}: set backbone.out_indices"
        )
    read = [outputs[i] for i in indices]
    if getattr(reader, "input_transform", None) == "resize_concat":
        read = [sum(read)]
    if list(channels) != read:
        raise SetupError(
            f"{name} expects in_channels={reader.in_channels}, but what it reads of the encoder "
            f"has {', '.join(map(str, read))} channels; set {name}.in_channels to that"
        )


def _check_logits(head: Any, name: str) -> None:
    """Heads of mmseg with a softmax have a logit for each class."""
    logits, classes = (getattr(head, key, None) for key in ("out_channels", "num_classes"))
    losses = getattr(head, "loss_decode", None)
    losses = losses if isinstance(losses, nn.ModuleList) else [losses]
    softmax = any(getattr(loss, "use_sigmoid", None) is False for loss in losses)
    if isinstance(logits, int) and isinstance(classes, int) and logits < classes and softmax:
        raise SetupError(
            f"{name} has out_channels={logits} for {classes} classes and a loss of softmax: "
            f"expected out_channels={classes}, or use_sigmoid=True in loss_decode"
        )


def _check_exits(model: nn.Module, backbone: ReducingBackbone) -> None:
    """Logits with which tokens leave are read, and not dropped or taken for features."""
    head = getattr(model, "decode_head", None)
    if backbone.num_exit_classes and not getattr(head, "reads_exits", False):
        (name,) = {type(reducer).__name__ for reducer in backbone.reducers.values()}
        got = "no decode_head" if head is None else type(head).__name__
        raise SetupError(
            f"{name} lets tokens leave with their logits: expected a segmenter with decode_head="
            f"dict(type='cropr_mm.EarlyExitHead', in_index=0, ...), got {got}"
        )


def _check_output(model: nn.Module, backbone: ReducingBackbone) -> None:
    """Classifiers without a neck read vectors, segmenters maps."""
    head = getattr(model, "head", None)
    layers = [
        getattr(head, name, None) for name in ("fc", "layers")
    ]  # linear, and mmpretrain's ViT
    if any(isinstance(layer, nn.Module) for layer in layers) and backbone.out_type in _MAPS:
        raise SetupError(
            f"{type(head).__name__} expects one vector per image, but the encoder has "
            f"out_type={backbone.out_type!r}; set backbone.out_type to 'avg_featmap', 'avg_all' or "
            "'cls_token', or pool in a neck"
        )
    if hasattr(model, "decode_head") and backbone.out_type != "featmap":
        raise SetupError(
            f"{type(model.decode_head).__name__} expects maps, but the encoder has "
            f"out_type={backbone.out_type!r}; set backbone.out_type to 'featmap'"
        )


def _check_windows(backbone: ReducingBackbone, size: tuple[int, int]) -> None:
    """The encoder takes images of this height and width."""
    try:
        backbone.num_keep(backbone.patch_grid(size))
    except ValueError as error:
        raise SetupError(f"model.test_cfg.crop_size={size} of mode 'slide': {error}") from error


def check_labels(dataset: Any, where: str) -> None:
    """Labels that list files give are among the classes.

    Args:
        dataset: Built dataset; one without classes, or whose labels follow from folders, passes.
        where: Name of the dataset for the message.

    Raises:
        SetupError: If a label is outside of the classes, with the first such image.
    """
    for part in built_datasets(dataset):
        classes = (getattr(part, "metainfo", None) or {}).get("classes")
        if not isinstance(classes, Sequence) or not getattr(part, "ann_file", None):
            continue
        for i in range(len(part)):
            info = part.get_data_info(i)
            if "gt_label" not in info:
                break
            labels = np.atleast_1d(info["gt_label"])
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
                raise SetupError(
                    f"{where}: expected labels in [0, {len(classes) - 1}] for {len(classes)} "
                    f"classes, got {labels.tolist()} for {info['img_path']} in {part.ann_file}"
                )
