"""Labels without a class and weights of classes: heads, targets, padding and data agree."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from cropr_mm.engine.preflight import SetupError, check_class_weights, check_ignored


def model(pads: bool = False, padding: int = 255, **head: Any) -> Any:
    """A decode head of two classes."""
    module = nn.Module()
    module.decode_head = nn.Module()
    for key, value in (dict(num_classes=2, ignore_index=255) | head).items():
        setattr(module.decode_head, key, value)
    module.data_preprocessor = nn.Module()
    module.data_preprocessor.size = (64, 64) if pads else None
    module.data_preprocessor.size_divisor = None
    module.data_preprocessor.seg_pad_val = padding
    return module


def check(module: Any, labels: set[int], **targets: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_ignored(module, targets, labels, "train_dataloader")


def test_what_is_ignored_by_all_passes() -> None:
    target = SimpleNamespace(ignore_index=255, num_classes=2)
    check(model(), {0, 1, 255}, target=target)
    check(model(pads=True), {0, 1}, target=target)
    check(model(pads=True, padding=7, ignore_index=7), {0, 1, 7})
    check(model(ignore_index=0), {0, 1})  # a class left out on purpose
    check(model(ignore_index=0), set())  # no maps were looked at
    check(nn.Module(), {0, 255}, other=SimpleNamespace())


@pytest.mark.parametrize(
    ("module", "labels", "message"),
    [
        (model(ignore_index=0), {0, 255}, r"decode_head has ignore_index=0 .* 255 is in the label"),
        (model(ignore_index=254), {1, 255}, r"decode_head has ignore_index=254"),
        (model(pads=True, ignore_index=9), {1}, r"255 is in padding \(seg_pad_val\)"),
        (model(pads=True, padding=9), {1}, r"9 is in padding \(seg_pad_val\)"),
    ],
)
def test_labels_that_a_head_takes_for_classes(module: Any, labels: set, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        check(module, labels)


def test_targets_are_compared_too() -> None:
    target = SimpleNamespace(ignore_index=0, num_classes=2)
    with pytest.raises(SetupError, match=r"^MyTarget has ignore_index=0 .* 255 is in the label"):
        check(model(), {0, 255}, MyTarget=target)


@pytest.mark.parametrize("padding", [0, 1])
def test_padding_that_is_learned_as_a_class_is_named(padding: int) -> None:
    with pytest.raises(UserWarning, match=rf"seg_pad_val={padding}, which is a class"):
        check(model(pads=True, padding=padding), {0, 1})
    check(model(pads=False, padding=padding), {0, 1})


def weighted(weights: Any, path: str = "decode_head", **head: Any) -> nn.Module:
    module = nn.Module()
    parent = module
    for name in path.split("."):
        child = nn.Module()
        setattr(parent, name, child)
        parent = child
    for key, value in head.items():
        setattr(parent, key, value)
    parent.loss = nn.Module()
    parent.loss.class_weight = weights
    return module


@pytest.mark.parametrize(
    ("weights", "head", "number"),
    [
        ([1, 2], dict(num_classes=2, out_channels=2), 2),
        ([1], dict(num_classes=2, out_channels=1), 2),
        (None, dict(num_classes=2), 2),
        (0.5, dict(num_classes=2), 2),
        ([1, 2, 3], dict(num_classes=2, cls_out_channels=3), 3),
        ([1, 2, 3], dict(num_classes=2, fc_cls=nn.Linear(4, 3)), 3),
    ],
)
def test_one_weight_for_each_class(weights: Any, head: dict, number: int) -> None:
    check_class_weights(weighted(weights, **head))
    check_class_weights(weighted([1], "neck", **head))
    for path in ("decode_head", "roi_head.bbox_head", "head"):
        with pytest.raises(
            SetupError, match=rf"Module of {path}: .* each of {number} classes, got 7"
        ):
            check_class_weights(weighted([1] * 7, path, **head))
