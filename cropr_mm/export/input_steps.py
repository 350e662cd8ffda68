"""What a config's test pipeline and data preprocessor do to an image, in the form of a card."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.runtime import Input

_IGNORED = frozenset(
    ("LoadAnnotations", "LoadPanopticAnnotations", "PackDetInputs", "PackSegInputs", "PackInputs")
)
_STEPS = ("Resize", "ResizeEdge", "CenterCrop")


def input_steps(
    pipeline: Sequence[Mapping[str, Any]], img_size: tuple[int, int] | None
) -> tuple[dict[str, Any], ...]:
    """Steps of a test pipeline between reading a file and the data preprocessor.

    Args:
        pipeline: Transforms of the config.
        img_size: Height and width that ``Resize`` aims at in the place of its own scale.

    Raises:
        SetupError: If a transform has no form outside of the host libraries.
    """
    steps = []
    for transform in pipeline:
        kind = transform["type"]
        name = kind if isinstance(kind, str) else kind.__name__
        name = name.rpartition(".")[2]
        if name == "LoadImageFromFile":
            _check_loading(transform)
        elif name in _STEPS:
            steps.append(_step(name, dict(transform), img_size))
        elif name not in _IGNORED:
            raise SetupError(
                f"the test pipeline has the transform {name}, which the runner of exported models "
                f"does not know: expected LoadImageFromFile, {', '.join(_STEPS)} and packing"
            )
    return tuple(steps)


def _check_loading(transform: Mapping[str, Any]) -> None:
    color = transform.get("color_type", "color")
    decoder = transform.get("imdecode_backend", "cv2") or "cv2"
    if color != "color" or decoder not in ("cv2", "pillow"):
        raise SetupError(
            "expected LoadImageFromFile with color_type='color' and imdecode_backend='cv2' or "
            f"'pillow', got {color!r} and {decoder!r}"
        )


def _step(name: str, given: dict[str, Any], img_size: tuple[int, int] | None) -> dict[str, Any]:
    size: Any
    scale: Any
    if name == "CenterCrop":
        size = given["crop_size"]
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        if img_size is not None and img_size != (height, width):
            raise SetupError(
                f"the test pipeline crops {height}x{width} pixels: expected --img-size {height} "
                f"{width}, got {img_size[0]} {img_size[1]}"
            )
        return dict(op="center_crop", size=(height, width))
    scaling = dict(
        backend=given.get("backend", "cv2"), interpolation=given.get("interpolation", "bilinear")
    )
    if scaling["backend"] == "cv2" and scaling["interpolation"] != "bilinear":
        raise SetupError(
            f"expected {name} with interpolation='bilinear' or backend='pillow', got "
            f"{scaling['interpolation']!r} with 'cv2'"
        )
    if name == "ResizeEdge":
        return (
            dict(op="resize_edge", scale=given["scale"], edge=given.get("edge", "short")) | scaling
        )
    scale = given.get("scale") if img_size is None else img_size[::-1]
    if scale is None:
        raise SetupError("expected Resize with a scale in the test pipeline, got none: --img-size")
    scale = (scale, scale) if isinstance(scale, int) else tuple(scale)
    return dict(op="resize", scale=scale, keep_ratio=given.get("keep_ratio", False)) | scaling


def input_size(steps: Sequence[Mapping[str, Any]], divisor: int) -> tuple[int, int] | None:
    """Height and width that the steps end with, as the preprocessor pads them; None where open."""
    last: Mapping[str, Any] = steps[-1] if steps else {"op": None}
    if last["op"] == "center_crop":
        size = last["size"]
    elif last["op"] == "resize":
        size = last["scale"][::-1]
    else:
        return None
    return -(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor


def make_input(
    preprocessor: nn.Module,
    steps: tuple[dict[str, Any], ...],
    size: tuple[int, int],
    batch: int | None,
) -> Input:
    """Input of a card, from the data preprocessor of a model.

    Args:
        preprocessor: Of mmdet, mmseg or mmpretrain.
        steps: See :func:`input_steps`.
        size: Height and width of the graph's input.
        batch: Images of one call, or None for any number.

    Raises:
        SetupError: If it does something that a card cannot say.
    """
    if not getattr(preprocessor, "_enable_normalize", False):
        raise SetupError("expected a data_preprocessor with mean and std, got one without")
    mean, std = (getattr(preprocessor, name).flatten().tolist() for name in ("mean", "std"))
    if len(mean) == 1:
        mean, std = mean * 3, std * 3
    if len(mean) != 3:
        raise SetupError(f"expected images of three channels, got mean of {len(mean)}")
    rgb = any(
        getattr(preprocessor, name, False)
        for name in ("_channel_conversion", "channel_conversion", "to_rgb")
    )
    test_cfg = getattr(preprocessor, "test_cfg", None) or {}
    pads = pad_divisor(preprocessor) > 1 or test_cfg.get("size") is not None
    value = getattr(preprocessor, "pad_value", getattr(preprocessor, "pad_val", 0))
    return Input(
        size=size,
        batch=batch,
        steps=steps,
        mean=tuple(mean),
        std=tuple(std),
        channels="rgb" if rgb else "bgr",
        pads=pads,
        pad_value=float(value),
    )


def pad_divisor(preprocessor: nn.Module) -> int:
    """What the sides of images are padded to a multiple of in testing."""
    test_cfg = getattr(preprocessor, "test_cfg", None) or {}
    return int(getattr(preprocessor, "pad_size_divisor", None) or test_cfg.get("size_divisor") or 1)
