"""The prune audit for people: a table and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cropr_mm.text_table import format_table

_SHARES = {
    "boxes_lost": "boxes lost: every token that the box touches was pruned before the block, %",
    "mask_pixels_pruned": "mask pixels whose token was pruned before the block, %",
}
_PRECISION = {"AP box": "bbox_mAP", "AP mask": "segm_mAP"}
_CLASSES = 10


def sized_precision(metrics: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """AP of boxes and masks by size, out of the metrics of mmdet's ``CocoMetric``.

    Returns:
        Size (and 'all') -> 'AP box' and 'AP mask'; None where the test did not give it, which COCO
        marks by -1.
    """
    ends = {"all": "", "small": "_s", "medium": "_m", "large": "_l"}
    found = {name.rpartition("/")[2]: value for name, value in metrics.items()}
    return {
        size: {
            title: value if (value := found.get(f"{stem}{end}", -1)) >= 0 else None
            for title, stem in _PRECISION.items()
        }
        for size, end in ends.items()
    }


def format_audit(record: Mapping[str, Any]) -> str:
    """Tables by size and of the classes that lose most; blocks count from 1.

    Args:
        record: ``audit`` as :func:`.lost_objects.summarize_audit` returns it, ``ap`` as
            :func:`sized_precision` does, ``sizes_from``, what the areas of the size groups are,
            and ``images``.
    """
    audit, precision = record["audit"], record["ap"]
    sizes = {**audit["size"], "all": audit["all"]}
    blocks = _changing(audit["all"]["box_area_pruned"])
    lines = [
        f"Prune audit of {audit['all']['boxes']} objects in {record['images']} images; an object "
        "is small up to 32x32 pixels of the original image and large from 96x96 "
        f"({record['sizes_from']})",
        *_left_out(audit["all"]["boxes_left_out"]),
        format_table(_token_rows(audit["patch_tokens"])),
    ]
    for share, title in _SHARES.items():
        count, ap = ("masks", "AP mask") if "mask" in share else ("boxes", "AP box")
        if not audit["all"][count]:
            continue
        rows = [["", count, ap, *(f"block {i + 1}" for i in blocks)]]
        for size, group in sizes.items():
            value = precision[size][ap]
            shown = "-" if value is None else f"{100 * value:.1f}"
            rows.append([size, str(group[count]), shown, *_percent(group[share], blocks)])
        lines += [f"{title}:", *(f"  {row}" for row in format_table(rows).splitlines())]
    lines += _worst_classes(audit["class"], blocks)
    return "\n".join(lines)


def plot_audit(record: Mapping[str, Any], file: str | Path) -> None:
    """Draw survival against block for each size: boxes not lost, and mask pixels.

    Args:
        record: As for :func:`format_audit`.
        file: Picture to write.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    titles = {
        "boxes_lost": ("boxes", "boxes with at least one token, %"),
        "mask_pixels_pruned": ("masks", "mask pixels whose token is seen, %"),
    }
    for axes, (share, (count, title)) in zip(
        figure.subplots(1, 2, sharey=True), titles.items(), strict=True
    ):
        for name, group in record["audit"]["size"].items():
            if group[share] is not None:
                survival = [100 * (1 - value) for value in group[share]]
                label = f"{name} ({group[count]})"
                axes.step(range(1, 1 + len(survival)), survival, where="mid", label=label)
        axes.set(title=title, xlabel="block (from 1)", ylim=(-3, 103))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(file, dpi=120)


def _changing(shares: list[float]) -> list[int]:
    """Blocks (0-based) where the share differs from that of the block before."""
    return [i for i in range(len(shares)) if shares[i] != (shares[i - 1] if i else 0.0)]


def _left_out(count: int) -> list[str]:
    return [f"left out: {count} boxes without area inside their image"] if count else []


def _token_rows(tokens: Mapping[str, list[float]]) -> list[list[str]]:
    """Patch tokens that each block saw: one row, or three where images differ."""
    head = ["patch tokens of block", *(str(i + 1) for i in range(len(tokens["mean"])))]
    if tokens["least"] == tokens["most"]:
        return [head, ["", *(f"{count}" for count in tokens["most"])]]
    return [head, *([name, *(f"{count:.0f}" for count in row)] for name, row in tokens.items())]


def _percent(shares: list[float] | None, blocks: list[int]) -> list[str]:
    return ["-" if shares is None else f"{100 * shares[i]:.1f}" for i in blocks]


def _worst_classes(classes: Mapping[str, Any], blocks: list[int]) -> list[str]:
    """Classes that lose most of their area, where there are several."""
    classes = {name: group for name, group in classes.items() if group["boxes"]}
    if len(classes) < 2 or not blocks:
        return []
    worst = sorted(classes.items(), key=lambda entry: -max(entry[1]["box_area_pruned"]))[:_CLASSES]
    rows = [["", "boxes", *(f"block {i + 1}" for i in blocks)]]
    for name, group in worst:
        rows.append([name, str(group["boxes"]), *_percent(group["box_area_pruned"], blocks)])
    title = "mean share of box area whose tokens were pruned before the block, %, worst classes:"
    return [title, *(f"  {row}" for row in format_table(rows).splitlines())]
