"""Naive re-statement of detectron2's plain-ViT detectors, under the names of its checkpoints.

EVA-02-det (Cascade Mask R-CNN on an EVA-02 ViT with rotary positions) and ViTDet (Mask R-CNN or
cascade on a plain ViT with decomposed relative positions), in evaluation mode, one image at a time,
with loops where the originals are clever.

Source: EVA, EVA-02/det/detectron2/modeling/backbone/vit.py and utils.py; detectron2,
modeling/backbone/{vit,utils,fpn}.py, modeling/{anchor_generator,box_regression,poolers}.py,
modeling/proposal_generator/{rpn,proposal_utils}.py, modeling/roi_heads/{box_head,fast_rcnn,
mask_head,cascade_rcnn}.py, layers/{wrappers,batch_norm}.py; configs/common/models/mask_rcnn_fpn.py
and mask_rcnn_vitdet.py, projects/ViTDet/configs/COCO/cascade_mask_rcnn_vitdet_b_100ep.py.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, roi_align

STRIDES = (4, 8, 16, 32, 64)
SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)


class Settings(NamedTuple):
    """Sizes; the defaults are small."""

    eva: bool = True
    img_size: int = 128
    embed_dim: int = 32
    depth: int = 4
    num_heads: int = 2
    mlp_ratio: float = 8 / 3
    window_size: int = 4
    global_blocks: tuple[int, ...] = (1, 3)
    pretrain_grid: int = 5
    channels: int = 16
    fc_dim: int = 24
    num_classes: int = 3
    cascade: bool = True
    masks: bool = True


class Detections(NamedTuple):
    """What is found in one image, best first."""

    boxes: Tensor  # (n, 4)
    scores: Tensor  # (n,)
    labels: Tensor  # (n,)
    masks: Tensor | None  # probabilities, (n, 28, 28)


class ChannelNorm(nn.Module):
    """Normalization over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
        x = (x - mean) / (variance + 1e-6).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class NormedConv(nn.Conv2d):
    """Convolution that owns its norm, as detectron2's wrapper."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__(before, after, kernel, padding=kernel // 2, bias=False)
        self.norm = ChannelNorm(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Rotation(nn.Module):
    """Rotary positions of a square grid, with ``spacing`` between its cells."""

    def __init__(self, side: int, head_dim: int, spacing: float) -> None:
        super().__init__()
        quarter = head_dim // 4  # frequencies: each for two channels, for rows and for columns
        frequency = 10000.0 ** -(torch.arange(quarter) / quarter)
        along = torch.outer(torch.arange(side) * spacing, frequency.repeat_interleave(2))
        rows = along[:, None].expand(-1, side, -1)
        columns = along[None].expand(side, -1, -1)
        angles = torch.cat([rows, columns], dim=2).flatten(0, 1)
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.empty_like(x)
        turned[..., 0::2], turned[..., 1::2] = -x[..., 1::2], x[..., 0::2]
        return x * self.freqs_cos + turned * self.freqs_sin


class EvaAttention(nn.Module):
    """Attention with rotary positions; keys have no bias."""

    def __init__(self, s: Settings, rope: Rotation) -> None:
        super().__init__()
        self.heads = s.num_heads
        for name in "qkv":
            self.add_module(f"{name}_proj", nn.Linear(s.embed_dim, s.embed_dim, bias=False))
        self.q_bias = nn.Parameter(torch.zeros(s.embed_dim))
        self.v_bias = nn.Parameter(torch.zeros(s.embed_dim))
        self.rope = rope  # shared, so its buffers stand in the state dict once for each block
        self.proj = nn.Linear(s.embed_dim, s.embed_dim)

    def forward(self, x: Tensor) -> Tensor:  # (h, w, C)
        flat = x.flatten(0, 1)
        q = (self.q_proj(flat) + self.q_bias).unflatten(1, (self.heads, -1)).transpose(0, 1)
        k = self.k_proj(flat).unflatten(1, (self.heads, -1)).transpose(0, 1)
        v = (self.v_proj(flat) + self.v_bias).unflatten(1, (self.heads, -1)).transpose(0, 1)
        weights = self.rope(q) @ self.rope(k).transpose(1, 2) / math.sqrt(q.shape[-1])
        return self.proj((weights.softmax(-1) @ v).transpose(0, 1).reshape(x.shape))


class PlainAttention(nn.Module):
    """Attention with decomposed relative positions."""

    def __init__(self, s: Settings, side: int) -> None:
        super().__init__()
        self.heads = s.num_heads
        self.qkv = nn.Linear(s.embed_dim, 3 * s.embed_dim)
        self.proj = nn.Linear(s.embed_dim, s.embed_dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, s.embed_dim // s.num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, s.embed_dim // s.num_heads))

    def forward(self, x: Tensor) -> Tensor:  # (h, w, C)
        h, w, _ = x.shape
        qkv = self.qkv(x.flatten(0, 1)).unflatten(1, (3, self.heads, -1))
        q, k, v = (t.transpose(0, 1) for t in qkv.unbind(1))  # (H, h * w, d)
        logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        for a in range(h * w):
            for b in range(h * w):
                dy, dx = a // w - b // w + h - 1, a % w - b % w + w - 1
                logits[:, a, b] += q[:, a] @ (self.rel_pos_h[dy] + self.rel_pos_w[dx])
        return self.proj((logits.softmax(-1) @ v).transpose(0, 1).reshape(x.shape))


class EvaMlp(nn.Module):
    """SwiGLU with a norm in the middle."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


class PlainMlp(nn.Module):
    """Two layers."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm block, in windows that are filled up with zeros, or over the whole grid."""

    def __init__(self, s: Settings, attention: nn.Module, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(s.embed_dim, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(s.embed_dim, eps=1e-6)
        hidden = int(s.embed_dim * s.mlp_ratio)
        self.mlp = (EvaMlp if s.eva else PlainMlp)(s.embed_dim, hidden)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:  # (h, w, C)
        y, (h, w) = self.norm1(x), x.shape[:2]
        if self.window:
            side = self.window
            padded = F.pad(y, (0, 0, 0, -w % side, 0, -h % side))
            done = torch.empty_like(padded)
            for top in range(0, padded.shape[0], side):
                for left in range(0, padded.shape[1], side):
                    place = slice(top, top + side), slice(left, left + side)
                    done[place] = self.attn(padded[place])
            y = done[:h, :w]
        else:
            y = self.attn(y)
        x = x + y
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """ViT without class token and final norm."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict(dict(proj=nn.Conv2d(3, s.embed_dim, 16, 16)))
        self.pos_embed = nn.Parameter(torch.zeros(1, s.pretrain_grid**2 + 1, s.embed_dim))
        grid, head_dim = s.img_size // 16, s.embed_dim // s.num_heads
        if s.eva:
            self.rope_win = Rotation(s.window_size, head_dim, 16 / s.window_size)
            self.rope_glb = Rotation(grid, head_dim, 16 / grid)
        self.blocks = nn.ModuleList()
        for i in range(s.depth):
            whole = i in s.global_blocks
            if s.eva:
                attention: nn.Module = EvaAttention(s, self.rope_glb if whole else self.rope_win)
            else:
                attention = PlainAttention(s, grid if whole else s.window_size)
            self.blocks.append(Block(s, attention, 0 if whole else s.window_size))

    def forward(self, image: Tensor) -> Tensor:  # (3, H, W) -> (C, h, w)
        x = self.patch_embed["proj"](image[None])
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        table = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        if x.shape[2:] != table.shape[2:]:
            table = F.interpolate(table, x.shape[2:], mode="bicubic", align_corners=False)
        x = (x + table)[0].permute(1, 2, 0)
        for block in self.blocks:
            x = block(x)
        return x.permute(2, 0, 1)


class Pyramid(nn.Module):
    """Simple feature pyramid around its encoder."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        dim, out = s.embed_dim, s.channels

        def smooth(channels: int) -> list[nn.Module]:
            return [NormedConv(channels, out, 1), NormedConv(out, out, 3)]

        def enlarge(channels: int) -> nn.Module:
            return nn.ConvTranspose2d(channels, channels // 2, 2, 2)

        stages = {
            2: [
                enlarge(dim),
                ChannelNorm(dim // 2),
                nn.GELU(),
                enlarge(dim // 2),
                *smooth(dim // 4),
            ],
            3: [enlarge(dim), *smooth(dim // 2)],
            4: smooth(dim),
            5: [nn.MaxPool2d(2, 2), *smooth(dim)],
        }
        for level, layers in stages.items():
            self.add_module(f"simfp_{level}", nn.Sequential(*layers))
        self.net = Encoder(s)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.net(image)[None]
        maps = [getattr(self, f"simfp_{level}")(x) for level in (2, 3, 4, 5)]
        return [*maps, F.max_pool2d(maps[-1], 1, 2)]


class ProposalHead(nn.Module):
    """Two convolutions, then logits and deltas."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        for i in range(2):
            self.conv.add_module(f"conv{i}", nn.Conv2d(channels, channels, 3, padding=1))
        self.objectness_logits = nn.Conv2d(channels, 3, 1)
        self.anchor_deltas = nn.Conv2d(channels, 12, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (h * w * 3,) and deltas (h * w * 3, 4): cell by cell, anchor by anchor."""
        x = F.relu(self.conv.conv1(F.relu(self.conv.conv0(x))))
        logits = self.objectness_logits(x)[0].permute(1, 2, 0).flatten()
        return logits, self.anchor_deltas(x)[0].permute(1, 2, 0).reshape(-1, 4)


class BoxHead(nn.Module):
    """Four convolutions with norm, one linear layer."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        for i in range(1, 5):
            self.add_module(f"conv{i}", NormedConv(s.channels, s.channels, 3))
        self.fc1 = nn.Linear(s.channels * 49, s.fc_dim)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x = F.relu(getattr(self, f"conv{i}")(x))
        return F.relu(self.fc1(x.flatten(1)))


class Predictor(nn.Module):
    """Classes and deltas."""

    def __init__(self, s: Settings, agnostic: bool) -> None:
        super().__init__()
        self.cls_score = nn.Linear(s.fc_dim, s.num_classes + 1)
        self.bbox_pred = nn.Linear(s.fc_dim, 4 if agnostic else 4 * s.num_classes)


class MaskHead(nn.Module):
    """Four convolutions with norm, enlargement, one map for each class."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        for i in range(1, 5):
            self.add_module(f"mask_fcn{i}", NormedConv(s.channels, s.channels, 3))
        self.deconv = nn.ConvTranspose2d(s.channels, s.channels, 2, 2)
        self.predictor = nn.Conv2d(s.channels, s.num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x = F.relu(getattr(self, f"mask_fcn{i}")(x))
        return self.predictor(F.relu(self.deconv(x)))


class Regions(nn.Module):
    """Heads on regions of interest."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        if s.cascade:
            self.box_head = nn.ModuleList(BoxHead(s) for _ in range(3))
            self.box_predictor = nn.ModuleList(Predictor(s, agnostic=True) for _ in range(3))
        else:
            self.box_head = BoxHead(s)
            self.box_predictor = Predictor(s, agnostic=False)
        if s.masks:
            self.mask_head = MaskHead(s)


class NaiveDetector(nn.Module):
    """Cascade Mask R-CNN or Mask R-CNN; its state dict has detectron2's names and shapes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = Pyramid(settings)
        self.proposal_generator = nn.ModuleDict(dict(rpn_head=ProposalHead(settings.channels)))
        self.roi_heads = Regions(settings)

    def proposals(self, maps: list[Tensor], limit: int = 1000) -> Tensor:
        """Best boxes of the region proposal network, shape (n, 4)."""
        boxes, scores, levels = [], [], []
        for level, x in enumerate(maps):
            logits, deltas = self.proposal_generator["rpn_head"](x)
            order = logits.argsort(descending=True)[:limit]
            anchors = grid_anchors(*x.shape[2:], STRIDES[level], SIZES[level])
            boxes.append(apply_deltas(deltas, anchors, (1, 1, 1, 1))[order])
            scores.append(logits[order])
            levels.append(torch.full_like(order, level))
        box, score, level = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        box = self.clip(box)
        good = ((box[:, 2:] - box[:, :2]) > 0).all(1)
        box, score, level = box[good], score[good], level[good]
        return box[batched_nms(box, score, level, 0.7)[:limit]]

    def classify(self, maps: list[Tensor], box: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (n, K + 1), averaged over stages, and boxes (n, 4 or K * 4)."""
        if not self.settings.cascade:
            return self.stage(maps, box, self.roi_heads.box_head, self.roi_heads.box_predictor, 10)
        total: Tensor | float = 0.0
        heads = zip(
            self.roi_heads.box_head, self.roi_heads.box_predictor, (10, 20, 30), strict=True
        )
        for k, (head, predictor, precision) in enumerate(heads):
            if k > 0:
                box = self.clip(box)
            probabilities, box = self.stage(maps, box, head, predictor, precision)
            total = total + probabilities
        return total / 3, box

    def stage(
        self, maps: list[Tensor], box: Tensor, head: nn.Module, predictor: nn.Module, weight: int
    ) -> tuple[Tensor, Tensor]:
        x = head(pool(maps, box, 7))
        deltas = predictor.bbox_pred(x)
        parts = [
            apply_deltas(d, box, (weight, weight, weight / 2, weight / 2))
            for d in deltas.split(4, dim=1)
        ]
        return predictor.cls_score(x).softmax(1), torch.cat(parts, dim=1)

    def detect(
        self, image: Tensor, threshold: float = 0.05, iou: float = 0.5, limit: int = 100
    ) -> Detections:
        """Detections of one normalized image, shape (3, H, W), best first."""
        maps = self.backbone(image)
        probabilities, box = self.classify(maps, self.proposals(maps))
        found = []
        for i, row in enumerate(probabilities[:, :-1]):
            for label, score in enumerate(row):
                if score > threshold:
                    part = box[i] if box.shape[1] == 4 else box[i, 4 * label : 4 * label + 4]
                    found.append((self.clip(part[None])[0], score, label))
        boxes = torch.stack([f[0] for f in found])
        scores, labels = torch.stack([f[1] for f in found]), torch.tensor([f[2] for f in found])
        keep = batched_nms(boxes, scores, labels, iou)[:limit]
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        masks = None
        if self.settings.masks:
            logits = self.roi_heads.mask_head(pool(maps, boxes, 14))
            masks = torch.stack([m[c] for m, c in zip(logits, labels, strict=True)]).sigmoid()
        return Detections(boxes, scores, labels, masks)

    def clip(self, box: Tensor) -> Tensor:
        return box.clamp(0, self.settings.img_size)


def grid_anchors(rows: int, columns: int, stride: int, size: int) -> Tensor:
    anchors = []
    for y in range(rows):
        for x in range(columns):
            for ratio in RATIOS:  # height / width
                width = math.sqrt(size**2 / ratio)
                height = ratio * width
                anchors.append(
                    [
                        x * stride - width / 2,
                        y * stride - height / 2,
                        x * stride + width / 2,
                        y * stride + height / 2,
                    ]
                )
    return torch.tensor(anchors)


def apply_deltas(deltas: Tensor, box: Tensor, weights: tuple[float, ...]) -> Tensor:
    size = box[:, 2:] - box[:, :2]
    center = box[:, :2] + size / 2
    moved = center + deltas[:, :2] / torch.tensor(weights[:2]) * size
    growth = (deltas[:, 2:] / torch.tensor(weights[2:])).clamp(max=math.log(1000 / 16))
    half = size * growth.exp() / 2
    return torch.cat([moved - half, moved + half], dim=1)


def pool(maps: list[Tensor], box: Tensor, side: int) -> Tensor:
    """Features of boxes, each from the level of its size, shape (n, C, side, side)."""
    out = []
    for b in box:
        area = float((b[2] - b[0]) * (b[3] - b[1]))
        level = math.floor(4 + math.log2(math.sqrt(area) / 224 + 1e-16)) - 2 if area > 0 else 0
        level = min(max(level, 0), 3)
        out.append(
            roi_align(
                maps[level], [b[None]], side, 1 / STRIDES[level], sampling_ratio=0, aligned=True
            )
        )
    return torch.cat(out)
