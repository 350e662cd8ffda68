"""Which encoders are timed side by side to answer one question about speed.

A study is a pure function of an architecture and image sides; what it leaves open (precision,
attention kernel, batch size) is crossed with its groups. Settings are those of the configs.

Sources: the Cropr paper, supplement, table 5 (pruning rates), figures on model scale and resolution
and appendix E (precision, image size, sequence length); table 3 for detection.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from cropr_mm.layers.arch import resolve_arch

CONFIGS = Path(__file__).parents[2] / "configs"
SCALES = tuple(f"{name}_mae_in1k" for name in ("vitb", "vitl", "vith"))
RESOLUTIONS = tuple(f"vitl_mae_in1k_{side}" for side in (336, 448))
DETECTORS = {
    "eva02_large_patch14_448": "eva02_cascade_coco",
    "eva02_base_patch14_448": "eva02b_cascade_coco",
}
_DENSE: dict[str, Any] = dict(reducer=None, schedule=None, fusion=None)

Sides = Sequence[int] | None


class Group(NamedTuple):
    """Encoders that are timed in turn; the first one is what the others are compared with.

    Attributes:
        title: What they share.
        encoders: Arguments of :class:`cropr_mm.CroprViT` by label.
    """

    title: str
    encoders: Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """A question about speed.

    Attributes:
        groups: Gives the groups for an architecture and image sides in pixels; None stands for
            those of the publication.
        dtypes: Precisions that it asks about, see :class:`cropr_mm.profiling.run_mode.Mode`.
        kernels: Attention kernels that it asks about.
        modes_together: Whether modes are compared, so that all take turns in one group; otherwise
            each has groups of its own.
        with_memory: Whether memory is part of the question.
        over_sizes: Whether groups differ in nothing but the image size.
    """

    groups: Callable[[str | None, Sides], list[Group]]
    dtypes: tuple[str, ...] = ("bf16",)
    kernels: tuple[str, ...] = ("auto",)
    modes_together: bool = False
    with_memory: bool = False
    over_sizes: bool = False


def rates(arch: str | None, sides: Sides) -> list[Group]:
    """Removal of R = 0 to 8 tokens per block, ViT-L with fusion."""
    groups = []
    for settings in _of_config("vitl_mae_in1k", arch, sides):
        pruned = {f"R={rate}": _with_rate(settings, rate) for rate in range(1, 9)}
        groups.append(Group(_title(settings), {"R=0": settings | _DENSE, **pruned}))
    return groups


def precision(arch: str | None, sides: Sides) -> list[Group]:
    """Removal of 90 % without fusion and class token, to be crossed with precisions and kernels."""
    groups = []
    for settings in _plain(arch, sides or (512, 1024, 2048)):
        rate = _rate(settings)
        encoders = {"dense": settings | _DENSE, f"R={rate}": _with_rate(settings, rate)}
        groups.append(Group(_title(settings), encoders))
    return groups


def length(arch: str | None, sides: Sides) -> list[Group]:
    """M against M - 1 tokens, dense and with the removal of :func:`precision`.

    Where the image is a square of M patches, one of a row less and a column more has M - 1; equal
    steps take both to lengths that differ by one throughout.
    """
    groups = []
    for settings in _plain(arch, sides or (512, 1024, 2048)):
        patch, (side, _) = settings["patch_size"], settings["img_size"]
        tokens, rate = (side // patch) ** 2, _rate(settings)
        sizes = {tokens: (side, side), tokens - 1: (side - patch, side + patch)}
        for name, kind in (("dense", settings | _DENSE), (f"R={rate}", _with_rate(settings, rate))):
            encoders = {f"{count} tokens": kind | dict(img_size=s) for count, s in sizes.items()}
            groups.append(Group(f"{_title(settings)}, {name}", encoders))
    return groups


def scale(arch: str | None, sides: Sides) -> list[Group]:
    """ViT-B, L and H, and ViT-L at three resolutions, with fusion.

    Another architecture takes the place of all, with their rates.
    """
    groups = {}
    for name in (*SCALES, *RESOLUTIONS):
        for settings in _of_config(name, arch, sides):
            rate = f"R={settings['schedule']['rate']}"
            title = f"{_title(settings)}, {rate}"
            groups[title] = Group(title, {"dense": settings | _DENSE, rate: settings})
    return list(groups.values())


def detection(arch: str | None, sides: Sides) -> list[Group]:
    """Encoders of the COCO detectors, in windows: EVA-02-L at 1536 px, EVA-02-B at 1024 px.

    Another architecture takes the place of the one of its depth.
    """
    by_depth = {resolve_arch(name).depth: config for name, config in DETECTORS.items()}
    groups = []
    for name in DETECTORS if arch is None else [arch]:
        depth = resolve_arch(name).depth
        if depth not in by_depth:
            known = " or ".join(map(str, by_depth))
            raise ValueError(f"expected an arch of {known} blocks, got {name} of {depth}")
        for settings in _of_config(by_depth[depth], arch, sides):
            groups.append(Group(_title(settings), {"dense": settings | _DENSE, "Cropr": settings}))
    return groups


def curve(arch: str | None, sides: Sides) -> list[Group]:
    """Removal of 0, 45 and 90 % without fusion and class token, over image sizes."""
    groups = []
    for settings in _plain(arch, sides or (512, 768, 1024, 1536, 2048)):
        whole = _rate(settings)
        pruned = {f"R={rate}": _with_rate(settings, rate) for rate in (whole // 2, whole) if rate}
        groups.append(Group(_title(settings), {"dense": settings | _DENSE, **pruned}))
    return groups


STUDIES: dict[str, Study] = {
    "rates": Study(rates),
    "precision": Study(precision, ("fp32", "bf16", "fp16", "amp"), ("flash", "math"), True),
    "length": Study(length),
    "scale": Study(scale),
    "detection": Study(detection, with_memory=True),
    "curve": Study(curve, with_memory=True, over_sizes=True),
}


def _of_config(name: str, arch: str | None, sides: Sides) -> list[dict[str, Any]]:
    """Encoder of a pruned config, once per image side."""
    (file,) = CONFIGS.rglob(f"cropr_{name}.py")
    settings = Config.fromfile(file).model.backbone.to_dict()
    del settings["type"]
    settings["arch"] = arch or settings["arch"]
    own = settings.get("img_size") or resolve_arch(settings["arch"]).img_size
    return [settings | dict(img_size=(side, side)) for side in (sides or [own])]


def _plain(arch: str | None, sides: Sequence[int]) -> list[dict[str, Any]]:
    """Encoder of appendix E, once per image side: no class token and no fusion."""
    changes = dict(patch_size=16, with_cls_token=False, out_type="featmap", fusion=None)
    return [s | changes for s in _of_config("vitl_mae_in1k", arch, sides)]


def _rate(settings: Mapping[str, Any]) -> int:
    """Tokens to remove per block so that 90 % (115 / 128, as published) are gone at the end.

    Raises:
        ValueError: If the image has too few patches, or is not made of whole ones.
    """
    side, patch = settings["img_size"][0], settings["patch_size"]
    steps = resolve_arch(settings["arch"]).depth - 1
    rate = (side // patch) ** 2 * 115 // (128 * steps)
    if side % patch or rate < 1:
        raise ValueError(
            f"expected an image side in multiples of {patch} pixels with at least one token to "
            f"remove after each of {steps} blocks, got {side}"
        )
    return rate


def _with_rate(settings: dict[str, Any], rate: int) -> dict[str, Any]:
    return settings | dict(schedule=dict(settings["schedule"], rate=rate))


def _title(settings: Mapping[str, Any]) -> str:
    return f"{settings['arch']}, {settings['img_size'][0]} px"
