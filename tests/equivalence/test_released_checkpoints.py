"""Checkpoints of Token Cropr's released code compute in our models what they computed there.

The released models are stated once more here, image by image, with the names of their checkpoints.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from cropr_mm.build import build_model
from cropr_mm.checkpoints import CheckpointError
from cropr_mm.engine.convert import convert_checkpoint
from cropr_mm.structures import Reduction, Tokens

C, HEADS, DEPTH, CELLS, CLASSES = 32, 2, 5, 4, 5
SIDE = 16 * CELLS
KEEP = {0: 12, 1: 8, 2: 4}


class CrossAttention(nn.Module):
    """Queries look at tokens, then a residual MLP."""

    def __init__(self, queries: int, mha: bool) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, C))
        self.mha = mha
        if mha:
            self.attn_norm = nn.LayerNorm(C, eps=1e-6)
            self.q, self.k, self.v = (nn.Linear(C, C, bias=False) for _ in range(3))
            self.proj = nn.Linear(C, C)
        self.mlp_norm = nn.LayerNorm(C, eps=1e-6)
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(C, 4 * C), fc2=nn.Linear(4 * C, C)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (S, C) -> what queries gathered (M, C), and the score of each token (S,)."""
        queries = self.queries[0]
        if not self.mha:
            logits = queries @ x.T
            y = (logits * C**-0.5).softmax(1) @ x
        else:
            z = self.attn_norm(x)
            width = C // HEADS
            parts, logits = [], torch.zeros(len(queries), len(x))
            for h in range(HEADS):
                own = slice(h * width, (h + 1) * width)
                head = self.q(queries)[:, own] @ self.k(z)[:, own].T
                logits = logits + head
                parts.append((head * width**-0.5).softmax(1) @ self.v(z)[:, own])
            y = self.proj(torch.cat(parts, 1))
        y = y + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.mlp_norm(y))))
        return y, logits.sum(0)


class CroprModule(nn.Module):
    """One step."""

    def __init__(self, queries: int, mha: bool) -> None:
        super().__init__()
        self.cross_attn = CrossAttention(queries, mha)
        self.head = nn.ModuleDict(dict(norm=nn.LayerNorm(C), head=nn.Linear(C, CLASSES)))


class Attention(nn.Module):
    """Of MAE's ViT, or of EVA-02 without its rotation."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        if packed:
            self.qkv = nn.Linear(C, 3 * C)
        else:
            self.q_proj, self.v_proj = nn.Linear(C, C), nn.Linear(C, C)
            self.k_proj = nn.Linear(C, C, bias=False)
        self.proj = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "qkv"):
            q, k, v = self.qkv(x).chunk(3, 1)
        else:
            q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k, v = (t.unflatten(1, (HEADS, -1)).transpose(0, 1) for t in (q, k, v))
        logits = q @ k.mT * (C // HEADS) ** -0.5
        return self.proj((logits.softmax(-1) @ v).transpose(0, 1).flatten(1))


class SwiGLU(nn.Module):
    """EVA-02's MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1_g, self.fc1_x = nn.Linear(C, 2 * C), nn.Linear(C, 2 * C)
        self.norm = nn.LayerNorm(2 * C, eps=1e-6)
        self.fc2 = nn.Linear(2 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))


class Gelu(nn.Module):
    """A plain ViT's MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(C, 2 * C), nn.Linear(2 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(C, eps=1e-6), nn.LayerNorm(C, eps=1e-6)
        self.attn = Attention(packed)
        self.mlp = Gelu() if packed else SwiGLU()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Released(nn.Module):
    """A classifier, or a segmenter of ``cells``; a plain ViT if ``packed``, else EVA-02's parts."""

    def __init__(self, cells: bool, packed: bool, mha: bool, pooled: bool) -> None:
        super().__init__()
        self.cells, self.pooled = cells, pooled
        self.cls_token = nn.Parameter(torch.randn(1, 1, C))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + CELLS**2, C))
        self.patch_embed = nn.ModuleDict(dict(proj=nn.Conv2d(3, C, 16, 16)))
        self.blocks = nn.ModuleList(Block(packed) for _ in range(DEPTH))
        queries = CELLS**2 if cells else 1
        self.cropr = nn.ModuleDict({str(i): CroprModule(queries, mha) for i in KEEP})
        norm = nn.LayerNorm(C, eps=1e-6)
        self.fc_norm, self.norm = (norm, None) if pooled else (None, norm)
        self.head = nn.Linear(C, CLASSES)

    def forward(self, img: Tensor) -> tuple[Tensor, dict[int, Tensor], dict[int, set[int]]]:
        """One image (3, H, W) -> logits, auxiliary logits and kept cells of each step."""
        patches = self.patch_embed["proj"](img[None])[0].flatten(1).T
        x = torch.cat([self.cls_token[0], patches]) + self.pos_embed[0]
        cells = list(range(CELLS**2))
        gone: list[tuple[int, Tensor]] = []
        auxiliary, kept = {}, {}
        for i, block in enumerate(self.blocks):
            if i == DEPTH - 1:  # last layer fusion: all patches again, in raster order
                every = sorted([*zip(cells, x[1:], strict=True), *gone], key=lambda pair: pair[0])
                x = torch.cat([x[:1], torch.stack([token for _, token in every])])
            x = block(x)
            if i in KEEP:
                module = self.cropr[str(i)]
                y, scores = module.cross_attn(x)
                auxiliary[i] = module.head["head"](module.head["norm"](y))
                order = scores[1:].argsort(descending=True)[: KEEP[i]].tolist()
                gone += [(cells[n], x[1 + n]) for n in range(len(cells)) if n not in order]
                stay = sorted(order)
                cells = [cells[n] for n in stay]
                x = torch.cat([x[:1], x[1:][stay]])
                kept[i] = set(cells)
        if self.cells:
            out = self.head(self.norm(x[1:]) if self.norm is not None else self.fc_norm(x[1:]))
            return out.T.reshape(CLASSES, CELLS, CELLS), auxiliary, kept
        pooled = self.fc_norm(x.mean(0)) if self.pooled else self.norm(x)[0]
        return self.head(pooled), auxiliary, kept


def config(cells: bool, packed: bool, mha: bool, pooled: bool) -> Config:
    arch: dict[str, Any] = dict(embed_dim=C, depth=DEPTH, num_heads=HEADS, hidden_dim=2 * C)
    if not packed:
        arch |= dict(mlp="swiglu", mlp_norm=True, attn_bias="qv")
    backbone = dict(
        type="cropr_mm.CroprViT",
        arch=arch,
        img_size=SIDE,
        out_type="featmap" if cells else "avg_all" if pooled else "cls_token",
        reducer=dict(
            type="cropr_mm.Cropr",
            num_classes=CLASSES,
            num_queries=(CELLS, CELLS) if cells else 1,
            scorer="mha" if mha else "simple",
            num_heads=HEADS,
        ),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep=KEEP),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
    model: dict[str, Any] = dict(type="ImageClassifier", backbone=backbone)
    model["head"] = dict(type="LinearClsHead", num_classes=CLASSES, in_channels=C)
    if cells:
        head = dict(type="FCNHead", in_channels=C, channels=C, num_classes=CLASSES)
        head |= dict(num_convs=0, concat_input=False, norm_cfg=None)
        model = dict(type="EncoderDecoder", backbone=backbone, decode_head=head)
    return Config(dict(default_scope="mmseg" if cells else "mmpretrain", model=model))


@pytest.mark.parametrize(
    ("cells", "packed", "mha", "pooled"),
    [
        (False, True, False, True),
        (False, True, False, False),
        (False, True, True, True),
        (False, False, False, True),
        (True, False, False, False),
        (True, True, True, False),
    ],
    ids=["cls", "cls-token", "cls-mha", "cls-eva", "seg-eva", "seg-mha"],
)
def test_outputs_kept_tokens_and_auxiliary_logits_are_equal(
    cells: bool, packed: bool, mha: bool, pooled: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    released = Released(cells, packed, mha, pooled)
    torch.save({"model": released.state_dict(), "epoch": 1}, tmp_path / "released.pth")
    cfg = config(cells, packed, mha, pooled)
    convert_checkpoint(tmp_path / "released.pth", tmp_path / "ours.pth", "cropr", cfg)
    model = build_model(cfg)
    weights = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    model.load_state_dict(weights, strict=True)
    model.eval()
    imgs = torch.randn(3, 3, SIDE, SIDE)
    kept: dict[int, Tensor] = {}
    auxiliary: dict[int, Tensor] = {}

    def note(block: int, reducer: nn.Module, args: tuple[Tokens], out: Reduction) -> None:
        kept[block] = out.kept.index
        auxiliary[block] = reducer.auxiliary(reducer.attention(reducer.queries, args[0].x))

    for block, reducer in model.backbone.reducers.items():
        reducer.register_forward_hook(partial(note, int(block)))
    with torch.no_grad():
        out = model.backbone(imgs)
        out = model.decode_head(out) if cells else model.head(out)
        for n, img in enumerate(imgs):
            logits, theirs, cells_kept = released(img)
            torch.testing.assert_close(out[n], logits, rtol=1e-4, atol=1e-4)
            for i in KEEP:
                assert set(kept[i][n].tolist()) == cells_kept[i]
                torch.testing.assert_close(
                    auxiliary[i][n], theirs[i].squeeze(0), rtol=1e-4, atol=1e-4
                )


def test_a_file_with_other_steps_is_named(tmp_path: Path) -> None:
    released = Released(False, True, False, True)
    del released.cropr["1"]
    torch.save({"model": released.state_dict()}, tmp_path / "released.pth")
    cfg = config(False, True, False, True)
    with pytest.raises(CheckpointError, match=r"reducers\.1\.auxiliary"):
        convert_checkpoint(tmp_path / "released.pth", tmp_path / "ours.pth", "cropr", cfg)
