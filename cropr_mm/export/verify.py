"""Does the exported file compute what PyTorch computes, and keep the same tokens?

Two files are looked at: the one that is shipped, and one whose graph also returns the ids that each
step kept. A runtime may fuse the two otherwise, so both are compared with PyTorch.

B batch, K tokens kept, H, W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.export.hosts import Host
from cropr_mm.export.limits import Limits
from cropr_mm.export.parts import WithKeptIds
from cropr_mm.export.runtime import ExportedModel
from cropr_mm.export.runtime.results import Result, result_of
from cropr_mm.reducers.base import TokenRanker, exclude

_PIXELS, _SCORE, _OVERLAP = 0.1, 1e-3, 0.95  # of detections that count as the same
_EDGE = 2  # pixels of a mask that may differ in any case: small masks are mostly edge


@dataclass
class Verification:
    """What was compared and found.

    Attributes:
        images: Names of the images.
        difference: Largest of an output of the shipped file, as :class:`Limits` measures it.
        instrumented: The same of the file that returns kept ids.
        pixels: Largest of a prepared image, in levels.
        results: Largest share of results that differ; None where the part gives maps only.
        detections: Of both sides in all images.
        unmatched: Those that the other side has not.
        kept_equal: Steps of images that kept the same tokens.
        kept_total: All steps of images that could be compared.
        ties: Images in which equal scores were decided otherwise; their outputs do not count.
        faults: What is outside the limits; empty where the export is good.
    """

    images: list[str] = field(default_factory=list)
    difference: float = 0.0
    instrumented: float = 0.0
    pixels: float = 0.0
    results: float | None = None
    detections: int = 0
    unmatched: int = 0
    kept_equal: int = 0
    kept_total: int = 0
    ties: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"images      {len(self.images)} ({', '.join(self.images)})",
            f"outputs     differ by {self.difference:.1e} of the largest value",
            f"kept sets   {self.kept_equal} of {self.kept_total} equal, {self.ties} ties",
            f"inputs      differ by {self.pixels:.2g} levels of 255",
        ]
        if self.results is not None:
            lines.append(f"results     {self.results:.3%} differ from the host library's")
        if self.detections:
            lines.append(f"detections  {self.detections}, {self.unmatched} of one side only")
        return "\n".join([*lines, *(f"FAULT       {fault}" for fault in self.faults)])


def verify(
    host: Host,
    graph: WithKeptIds,
    shipped: ExportedModel,
    instrumented: ExportedModel,
    files: Mapping[str, Path],
    limits: Limits,
) -> Verification:
    """Compare an exported model with PyTorch, from image files on.

    Args:
        host: The host library's way from files to inputs and results.
        graph: The part in PyTorch, with kept ids.
        shipped: The exported model.
        instrumented: The same with kept ids.
        files: Images by name.
        limits: What may differ.
    """
    found = Verification(images=list(files))
    placed = {name: shipped.place(file) for name, file in files.items()}
    every = list(placed.values())
    ours, with_ids = shipped.run(every), instrumented.run(every)
    number = len(ours)
    for i, (name, file) in enumerate(files.items()):
        prepared = host.prepare(file, shipped.card.input)
        images = prepared.images
        inputs = [images]
        if shipped.card.task == "detector":
            inputs.append(torch.tensor([placed[name].content], dtype=torch.float32))
        with torch.no_grad():
            outputs = list(graph(*inputs))
        levels = images[0].numpy() - every[i].pixels
        levels *= np.asarray(shipped.card.input.std, np.float32)[:, None, None]
        found.pixels = max(found.pixels, float(np.abs(levels).max()))
        tied = _compare_kept(
            found, name, graph, images, outputs[number:], _of(with_ids, i)[number:], limits
        )
        if tied:
            found.ties += 1
            continue
        expected = [output[0].numpy() for output in outputs[:number]]
        if shipped.card.task == "detector":
            theirs = host.detections(prepared)
            for got in (_of(ours, i), _of(with_ids, i)[:number]):
                _compare_detections(found, result_of("detector", got, placed[name]), theirs)
            continue
        found.difference = max(found.difference, difference(expected, _of(ours, i)))
        found.instrumented = max(found.instrumented, difference(expected, _of(with_ids, i)))
        task = shipped.card.task
        share = host.differing_results(task, prepared, placed[name], _of(ours, i))
        if share is not None:
            found.results = max(found.results or 0.0, share)
    _judge(found, limits)
    return found


def _of(outputs: list[NDArray], image: int) -> list[NDArray]:
    return [output[image] for output in outputs]


def difference(expected: list[NDArray], got: list[NDArray]) -> float:
    """Largest difference between outputs as a share of the largest value; infinite for others."""
    worst = 0.0
    for a, b in zip(expected, got, strict=False):
        if a.shape != b.shape or not np.isfinite(b).all():
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-12)))
    return worst


def _compare_kept(
    found: Verification,
    name: str,
    graph: WithKeptIds,
    images: Tensor,
    expected: list[Tensor],
    got: list[NDArray],
    limits: Limits,
) -> bool:
    """Compare the kept ids of one image; whether a tie was decided otherwise."""
    for step, (a, b) in enumerate(zip(expected, got, strict=True)):
        ours, theirs = set(a[0].tolist()), set(b.tolist())
        found.kept_total += 1
        if ours == theirs and len(theirs) == len(b):
            found.kept_equal += 1
            continue
        gap = score_gap(graph.backbone, images, step, ours ^ theirs)
        if len(theirs) == len(b) == len(ours) and gap <= limits.tie:
            return True
        found.faults.append(
            f"step {step} kept {len(ours - theirs)} other tokens of {len(ours)} in {name} "
            f"(their scores are {gap:.1e} of the largest apart)"
        )
        return False  # the next steps see other tokens
    return False


def score_gap(backbone: CroprViT, images: Tensor, step: int, tokens: set[int]) -> float:
    """How far apart the scores of some tokens are, as a share of the largest score of a step."""
    scores: dict[int, float] = {}
    largest = 0.0

    def look(reducer: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal largest
        live, _, signals = args
        assert isinstance(reducer, TokenRanker)
        values = exclude(reducer.score(live, signals), live, signals)[0]
        largest = float(values.nan_to_num().abs().max())
        scores.update(zip(live.index[0].tolist(), values.tolist(), strict=True))

    reducer = [*backbone.reducers.values()][step]
    handle = reducer.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            backbone(images)
    finally:
        handle.remove()
    values = [scores.get(token, float("inf")) for token in tokens]
    return (max(values) - min(values)) / max(largest, 1e-12)


def _compare_detections(found: Verification, ours: Result, theirs: Result) -> None:
    found.detections += len(ours["scores"]) + len(theirs["scores"])
    found.unmatched += unmatched(ours, theirs) + unmatched(theirs, ours)


def unmatched(ours: Result, theirs: Result) -> int:
    """Number of our detections that the others have not, see :class:`Limits`."""
    left = set(range(len(theirs["scores"])))
    missing = 0
    for i, box in enumerate(ours["boxes"]):
        near = [j for j in left if _is_same(ours, i, theirs, j, box)]
        if near:
            left.remove(near[0])
        else:
            missing += 1
    return missing


def _is_same(ours: Result, i: int, theirs: Result, j: int, box: NDArray) -> bool:
    if ours["labels"][i] != theirs["labels"][j]:
        return False
    if np.abs(box - theirs["boxes"][j]).max() > _PIXELS:
        return False
    if abs(ours["scores"][i] - theirs["scores"][j]) > _SCORE:
        return False
    if "masks" not in ours:
        return True
    a, b = ours["masks"][i], theirs["masks"][j]
    return bool((a ^ b).sum() <= max(_EDGE, (1 - _OVERLAP) * (a | b).sum()))


def _judge(found: Verification, limits: Limits) -> None:
    if found.ties == len(found.images):
        found.faults.append("every image has ties: nothing was compared")
    share = found.unmatched / max(found.detections, 1)
    for what, value, limit in (
        ("outputs of the file differ", found.difference, limits.difference),
        ("outputs of the file with kept ids differ", found.instrumented, limits.difference),
        ("prepared images differ, in levels,", found.pixels, limits.pixels),
        ("results of an image differ, as a share,", found.results or 0.0, limits.results),
        ("detections differ, as a share,", share, limits.detections),
    ):
        if not value <= limit:
            found.faults.append(f"{what} by {value:.2g}, more than {limit:g}")
