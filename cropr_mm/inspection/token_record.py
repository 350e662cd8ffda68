"""What an encoder does with the tokens of a data set: which leave, what merges, what features say.

n images, D features, P patches on an h x w grid.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.inspection.cluster_centers import centers_of_clusters, medoid_of_patches
from cropr_mm.inspection.recorder import PruningRecorder
from cropr_mm.reducers import DPCKNN, KMedoids, MergingReducer
from cropr_mm.structures import Reduction, Tokens

_NUM_CELLS = 16  # of each image, for pictures of features


@dataclass(frozen=True)
class TokenRecord:
    """Record of one encoder on n images of one size.

    Attributes:
        grid: Patch grid (h, w).
        num_blocks: Blocks of the encoder.
        steps: 0-based blocks that reduce, whether or not anything left there.
        depths: Of each step the 0-based block that it stands before or in: a step after a block
            has the depth of the next one.
        num_keep: Of each step the patch tokens that it leaves.
        merges: Whether the method merges tokens.
        left_after: 0-based block whose reducer dropped each patch, -1 where it stayed, shape
            (n, P); None for a method that merges. Of DPC-KNN the patches that stay are the centers
            of its clusters.
        clusters: Cluster of every patch after each merging block, (n, P) by 0-based block; empty
            for a method that prunes. Of K-Medoids the raster id of its medoid.
        features: Class token, or without one the mean of the patches, after each recorded block
            (as it enters the next one), (n, D) by 0-based block.
        cells: Raster ids of some patches, evenly spaced, shape (k,).
        outputs: Features of these patches in the encoder's last map, shape (n, k, D); None where it
            returns no map.
        shown: Numbers of the images that pictures can show, ascending.
        pictures: These images as the encoder saw them, before normalization, padded to whole
            patches, shape (len(shown), H, W, 3), RGB.
    """

    grid: tuple[int, int]
    num_blocks: int
    steps: tuple[int, ...]
    depths: tuple[int, ...]
    num_keep: tuple[int, ...]
    merges: bool
    left_after: NDArray[np.int64] | None
    clusters: Mapping[int, NDArray[np.int64]]
    features: Mapping[int, NDArray[np.float32]]
    cells: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    outputs: NDArray[np.float32] | None = None
    shown: tuple[int, ...] = ()
    pictures: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))

    @property
    def num_images(self) -> int:
        """Number of recorded images."""
        return len(next(iter(self.features.values())))

    def kept(self, image: int) -> dict[int, set[int]]:
        """Patches of one image that are left after each step, by block."""
        assert self.left_after is not None, "a method that merges has no patches to keep"
        left = self.left_after[image]
        return {b: {int(i) for i in np.flatnonzero((left > b) | (left < 0))} for b in self.steps}

    def save(self, file: Path) -> None:
        """Write everything as one .npz file."""
        arrays: dict[str, Any] = {"grid": self.grid, "num_blocks": self.num_blocks}
        for name in ("steps", "depths", "num_keep", "shown"):
            arrays[name] = np.array(getattr(self, name), dtype=np.int64)
        arrays["merges"] = self.merges
        arrays |= {f"features_{b}": v for b, v in self.features.items()}
        arrays |= {f"clusters_{b}": v for b, v in self.clusters.items()}
        arrays |= {"cells": self.cells, "pictures": self.pictures}
        for name in ("left_after", "outputs"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        np.savez_compressed(file, **arrays)

    @staticmethod
    def load(file: Path) -> "TokenRecord":
        """Read what :meth:`save` wrote."""
        with np.load(file) as arrays:
            parts: dict[str, dict[int, NDArray]] = {"features": {}, "clusters": {}}
            for name in arrays.files:
                kind, _, block = name.rpartition("_")
                if kind in parts:
                    parts[kind][int(block)] = arrays[name]
            height, width = arrays["grid"].tolist()
            return TokenRecord(
                grid=(height, width),
                num_blocks=int(arrays["num_blocks"]),
                steps=tuple(arrays["steps"].tolist()),
                depths=tuple(arrays["depths"].tolist()),
                num_keep=tuple(arrays["num_keep"].tolist()),
                merges=bool(arrays["merges"]),
                left_after=arrays["left_after"] if "left_after" in arrays.files else None,
                clusters=parts["clusters"],
                features=parts["features"],
                cells=arrays["cells"],
                outputs=arrays["outputs"] if "outputs" in arrays.files else None,
                shown=tuple(arrays["shown"].tolist()),
                pictures=arrays["pictures"],
            )


class TokenRecorder:
    """Watches an encoder; use it as a context manager around forward passes.

    Args:
        backbone: Encoder.
        blocks: Blocks (0-based) whose features are recorded; default: those that reduce, and the
            last.

    Raises:
        ValueError: If there is no such block.
    """

    def __init__(self, backbone: ReducingBackbone, blocks: tuple[int, ...] | None = None) -> None:
        if blocks and not 0 <= min(blocks) <= max(blocks) < backbone.depth:
            raise ValueError(f"expected blocks of 0 to {backbone.depth - 1}, got {list(blocks)}")
        reducing = tuple(backbone.num_keep())
        self.backbone = backbone
        self.blocks = (*reducing, backbone.depth - 1) if blocks is None else blocks
        self._pruning = PruningRecorder(backbone)
        self._maps: list[Tensor] = []
        self._clusters: dict[int, list[Tensor]] = defaultdict(list)
        self._features: dict[int, list[Tensor]] = defaultdict(list)
        self._outputs: list[Tensor] = []
        self._medoids: Tensor | None = None  # of each patch of the running images
        self._centers: Tensor | None = None  # of the clusters of the running images
        self._left_after: Tensor | None = None  # in which patches are no centers any more
        self._handles: list = []

    def __enter__(self) -> "TokenRecorder":
        self._pruning.__enter__()
        for block in self.blocks:
            note = partial(self._note_features, block)
            # A block that reduces in its middle is not called as one module; the next one is.
            following = self.backbone.blocks[block + 1 :]
            if len(following):
                handle = following[0].norm1.register_forward_pre_hook(
                    lambda _, args, f=note: f(args)
                )
            else:
                last = self.backbone.blocks[block]
                handle = last.register_forward_hook(lambda _, args, output, f=note: f(output))
            self._handles.append(handle)
        for name, reducer in self.backbone.reducers.items():
            hook = partial(self._note_reduction, int(name))
            self._handles.append(reducer.register_forward_hook(hook))
        self._handles.append(self.backbone.register_forward_pre_hook(self._forget))
        self._handles.append(self.backbone.register_forward_hook(self._note_maps))
        return self

    def __exit__(self, *_: object) -> None:
        self._pruning.__exit__()
        while self._handles:
            self._handles.pop().remove()

    def record(self) -> TokenRecord:
        """Everything since the start.

        Raises:
            ValueError: If nothing ran, or images had different sizes.
        """
        if not self._maps:
            raise ValueError("expected an encoder that ran, got none that did")
        grids = {tuple(m.shape[1:]) for m in self._maps}
        if len(grids) > 1:
            raise ValueError(f"expected images of one size, got patch grids {sorted(grids)}")
        ((height, width),) = grids
        reducers = self.backbone.reducers
        plan = self.backbone.num_keep((height, width))
        merges = any(isinstance(r, MergingReducer) for r in reducers.values())
        known = not merges or all(isinstance(r, DPCKNN) for r in reducers.values())
        return TokenRecord(
            grid=(height, width),
            num_blocks=self.backbone.depth,
            steps=tuple(plan),
            depths=tuple(b + (reducers[str(b)].site == "after") for b in plan),
            num_keep=tuple(plan.values()),
            merges=merges,
            left_after=torch.cat(self._maps).flatten(1).numpy() if known else None,
            clusters={b: torch.cat(parts).numpy() for b, parts in self._clusters.items()},
            features={b: torch.cat(parts).numpy() for b, parts in self._features.items()},
            cells=_some_cells(height * width).numpy(),
            outputs=torch.cat(self._outputs).numpy() if self._outputs else None,
        )

    def _note_features(self, block: int, tensors: tuple) -> None:
        x, prefix = tensors[0], self.backbone.prefix_at(block)
        cls = prefix - self.backbone.num_prefix  # behind mask queries
        value = x[:, cls] if self.backbone.has_cls else x[:, prefix:].mean(dim=1)
        self._features[block].append(value.detach().float().cpu())

    def _note_reduction(self, block: int, _: nn.Module, args: tuple, output: Reduction) -> None:
        reducer = self.backbone.reducers[str(block)]
        if isinstance(reducer, MergingReducer):
            self._clusters[block].append(_clusters(output.kept))
        if isinstance(reducer, KMedoids):
            self._medoids = medoid_of_patches(reducer, self._medoids, args[0], output.kept)
            self._clusters[block].append(self._medoids.cpu())
        if isinstance(reducer, DPCKNN):
            self._note_centers(block, reducer, args)

    def _note_centers(self, block: int, reducer: DPCKNN, args: tuple) -> None:
        self._centers = centers_of_clusters(reducer, self._centers, *args)
        height, width = args[0].grid
        stayed = torch.zeros(len(self._centers), height * width, dtype=torch.bool)
        stayed = stayed.scatter(1, self._centers.cpu(), True).view(-1, height, width)
        if self._left_after is None:
            self._left_after = torch.full(stayed.shape, -1)
        leaving = ~stayed & (self._left_after < 0)
        self._left_after = torch.where(leaving, block, self._left_after)

    def _forget(self, *_: object) -> None:
        self._medoids = self._centers = self._left_after = None

    def _note_maps(self, _: nn.Module, args: tuple, output: tuple[Tensor, ...]) -> None:
        # Logits of exits or queries may follow the maps of an encoder with ``out_indices``.
        maps = getattr(self.backbone, "out_indices", output)
        features = output[len(maps) - 1]
        if features.dim() == 4:  # a map of every patch
            patches = features.flatten(2)  # (B, D, P)
            some = patches[:, :, _some_cells(patches.shape[2])].transpose(1, 2)
            self._outputs.append(some.detach().float().cpu())
        if self._left_after is not None:
            self._maps.append(self._left_after)
        elif len(self.backbone.reducers):
            self._maps.append(self._pruning.maps())
        else:
            grid = self.backbone.patch_grid(tuple(args[0].shape[-2:]))
            self._maps.append(torch.full((len(args[0]), *grid), -1))


def _some_cells(num_patches: int) -> Tensor:
    """Raster ids of a few patches, in the middle of equal stretches."""
    count = min(_NUM_CELLS, num_patches)
    return (2 * torch.arange(count) + 1) * num_patches // (2 * count)


def _clusters(tokens: Tokens) -> Tensor:
    """Cluster of every patch, (B, P); each its own where nothing was merged yet."""
    if tokens.source is not None:
        return tokens.source.cpu()
    own = torch.arange(tokens.grid[0] * tokens.grid[1])
    return own.expand(tokens.x.shape[0], -1)
