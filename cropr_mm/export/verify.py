"""Does the exported file compute what PyTorch computes, and keep the same tokens?

Two files are looked at: the one that is shipped, and one whose graph also returns the ids that each
step kept. A runtime may fuse the two otherwise, so both are compared with PyTorch.

B batch, K tokens kept, H, W pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.export.hosts import Host
from cropr_mm.export.limits import Limits
from cropr_mm.export.matching import unmatched
from cropr_mm.export.parts import WithKeptIds
from cropr_mm.export.runtime import ExportedModel
from cropr_mm.export.runtime.results import Result, result_of
from cropr_mm.export.verification import Verification
from cropr_mm.reducers.base import TokenRanker, exclude


def verify(
    host: Host,
    graph: WithKeptIds,
    shipped: ExportedModel,
    instrumented: ExportedModel,
    files: Mapping[str, Path],
    limits: Limits,
) -> Verification:
    """Compare an exported model with PyTorch, from image files on; faults are not judged yet.

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
        largest, rms = difference(expected, _of(ours, i))
        found.difference, found.rms = max(found.difference, largest), max(found.rms, rms)
        found.instrumented = max(found.instrumented, difference(expected, _of(with_ids, i))[0])
        task = shipped.card.task
        share = host.differing_results(task, prepared, placed[name], _of(ours, i))
        if share is not None:
            found.results = max(found.results or 0.0, share)
    return found


def _of(outputs: list[NDArray], image: int) -> list[NDArray]:
    return [output[image] for output in outputs]


def difference(expected: list[NDArray], got: list[NDArray]) -> tuple[float, float]:
    """How far apart outputs are, as :class:`Limits` measures it; infinite for other shapes.

    Returns:
        The largest difference, and the largest root mean square of one output's.
    """
    largest = rms = 0.0
    for a, b in zip(expected, got, strict=False):
        if a.shape != b.shape or not np.isfinite(b).all():
            return float("inf"), float("inf")
        gap = a.astype(np.float64) - b
        largest = max(largest, float(np.abs(gap).max() / max(np.abs(a).max(), 1e-12)))
        rms = max(rms, float(np.sqrt((gap**2).mean()) / max(np.sqrt((a**2).mean()), 1e-12)))
    return largest, rms


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
    exact = limits.agreement == 1
    for step, (a, b) in enumerate(zip(expected, got, strict=True)):
        ours, theirs = set(a[0].tolist()), set(b.tolist())
        found.kept_total += 1
        found.kept_shared += len(ours & theirs) / len(ours)
        if ours == theirs and len(theirs) == len(b):
            found.kept_equal += 1
            continue
        if not exact:
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
