"""Encoders that a pruned one is timed against: dense, random, timm's, and the paper's step.

All share or copy its weights.
"""

from collections.abc import Callable
from copy import copy

import timm
import torch
from torch import Tensor, nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.checkpoints import to_timm
from cropr_mm.fusion import LastLayerFusion
from cropr_mm.reducers import Cropr, RandomPruner


class TimmTwin(nn.Module):
    """Timm's dense model with the weights of an encoder.

    Args:
        backbone: Encoder without windows and relative positions; read, not changed.
        arch: Timm's name of its architecture.

    Raises:
        ValueError: If timm has no such model.
    """

    def __init__(self, backbone: CroprViT, arch: str | dict) -> None:
        super().__init__()
        if not isinstance(arch, str):
            raise ValueError(
                "the baselines timm and published expect an encoder that timm knows by its name, "
                f"got arch={arch}"
            )
        if backbone.window_size is not None:
            raise ValueError(f"timm has no {arch} with windows")
        options = dict(img_size=backbone.img_size, patch_size=backbone.patch_size, num_classes=0)
        if backbone.cls_token is None:
            options |= dict(class_token=False, global_pool="")
        self.model = timm.create_model(arch, **options)
        weights, _ = to_timm(backbone.state_dict(), self.model)
        self.model.load_state_dict(weights)

    def forward(self, img: Tensor) -> Tensor:
        """Normalized tokens, prefix first, shape (B, P + N, C), of images (B, 3, H, W)."""
        model = self.model
        return model.fc_norm(model.forward_features(img))


class PublishedStep(TimmTwin):
    """Cropr with Last Layer Fusion step by step as published, on timm's blocks.

    Each query meets each token, all scores are sorted, and all tokens are brought into that order
    together with their rotations, at every step; fusion sorts the ids of all tokens. It is the
    oracle of the encoder and what its speed is compared with.

    Args:
        backbone: Encoder that prunes by Cropr with its own queries (not deployed), scorer 'simple'
            and selection 'topk', without ``pad_first``, with Last Layer Fusion or no fusion; read,
            not changed.
        arch: Timm's name of its architecture.

    Raises:
        ValueError: If timm has no such model, or the encoder prunes otherwise.

    Source: the Cropr paper, sections on scoring, selection and fusion, and its released code.
    """

    def __init__(self, backbone: CroprViT, arch: str | dict) -> None:
        super().__init__(backbone, arch)
        reducers = backbone.reducers.items()
        plain = all(
            type(r) is Cropr and not (r.deploy or r.normalized or r.sampling) for _, r in reducers
        )
        fusions = (LastLayerFusion, type(None))
        fused = type(backbone.fusion) in fusions and backbone.num_restored <= 1
        if not reducers or not plain or backbone.pad_first or not fused:
            raise ValueError(
                "the published step needs an encoder with plain Cropr that is not deployed, and "
                "Last Layer Fusion or none"
            )
        self.queries = nn.ParameterDict({block: r.queries for block, r in reducers})
        self.num_keep = backbone.num_keep()
        self.fuses = backbone.fusion is not None
        self.num_prefix = backbone.num_prefix

    def forward(self, img: Tensor) -> Tensor:
        """Normalized tokens, prefix first: all with fusion, (B, P + N, C), else the kept ones."""
        model, prefix = self.model, self.num_prefix
        x = model.patch_embed(img)
        embedded = model._pos_embed(x)
        x, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        x = model.norm_pre(x)
        whole = rope
        batch, index = x.shape[0], torch.arange(x.shape[1] - prefix, device=x.device)
        index = index.expand(batch, -1)
        dropped: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(model.blocks):
            if i == len(model.blocks) - 1 and self.fuses:
                patches = torch.cat([x[:, prefix:], *(part for part, _ in dropped)], dim=1)
                order = torch.cat([index, *(ids for _, ids in dropped)], dim=1).argsort(dim=1)
                x, rope = torch.cat([x[:, :prefix], _rows(patches, order)], dim=1), whole
            x = block(x) if rope is None else block(x, rope=rope)
            if i not in self.num_keep:
                continue
            keep = self.num_keep[i]
            logits = self.queries[str(i)] @ x[:, prefix:].transpose(1, 2)  # (B, M, N)
            order = logits.sum(dim=1).argsort(dim=1, descending=True)
            patches, index = _rows(x[:, prefix:], order), index.gather(1, order)
            if rope is not None:
                turns = rope.expand(batch, *rope.shape[-2:]) if rope.dim() == 2 else rope[:, 0]
                rope = _rows(turns, order)[:, None, :keep]
            dropped.append((patches[:, keep:], index[:, keep:]))
            x, index = torch.cat([x[:, :prefix], patches[:, :keep]], dim=1), index[:, :keep]
        return model.fc_norm(model.norm(x))


def random_twin(backbone: CroprViT) -> CroprViT:
    """The same encoder and schedule, pruned at random; shares every parameter that stays."""
    twin = copy(backbone)
    twin._modules = dict(backbone._modules)
    twin.reducers = nn.ModuleDict(
        {block: RandomPruner(backbone.embed_dim) for block in backbone.reducers}
    )
    return twin


BASELINES: dict[str, Callable[[CroprViT, str | dict], nn.Module]] = {
    "dense": lambda backbone, arch: backbone.unpruned(),
    "random": lambda backbone, arch: random_twin(backbone),
    "timm": TimmTwin,
    "published": PublishedStep,
}
"""By name, each made of an encoder and timm's name of its architecture."""


def _rows(x: Tensor, order: Tensor) -> Tensor:
    """Every token of (B, N, C) in another order (B, N)."""
    return x.gather(1, order[..., None].expand_as(x))
