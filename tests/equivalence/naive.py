"""Naive re-statement of the encoder, token by token, that the equivalence tests compare with."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm import CroprViT

Cell = tuple[int, int]


def randomize(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5)


def naive_rotation(vector: Tensor, y: float, x: float, model: CroprViT, span: tuple) -> Tensor:
    """Rotate one head's (d,) vector for one token, pair by pair."""
    arch, d = model.arch, vector.shape[0]
    out = vector.clone()
    for pair in range(d // 2):
        axis, k = divmod(pair, d // 4)
        position, extent = ((y, span[0]), (x, span[1]))[axis]
        if arch.rope == "eva":
            angle = (
                position * arch.rope_ref_grid / extent * arch.rope_temperature ** -(k / (d // 4))
            )
            i, j = 2 * pair, 2 * pair + 1
        else:
            angle = 2 * math.pi * (2 * (position + 0.5) / extent - 1)
            angle *= arch.rope_temperature ** -(k / (d // 4))
            i, j = pair, pair + d // 2
        c, s = math.cos(angle), math.sin(angle)
        out[i] = vector[i] * c - vector[j] * s
        out[j] = vector[j] * c + vector[i] * s
    return out


def naive_attention(
    attn: nn.Module, x: Tensor, model: CroprViT, cells: list, span: tuple
) -> Tensor:
    """Attention among tokens x (n, C) at ``cells`` of a window or grid of size ``span``."""
    n, heads = x.shape[0], attn.num_heads
    weight, bias = attn.qkv.weight, attn.qkv.bias
    if attn.q_bias is not None:
        bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
    qkv = F.linear(x, weight, bias).view(n, 3, heads, -1)
    out = []
    for h in range(heads):
        q, k, v = (qkv[:, i, h] for i in range(3))
        rq, rk = q, k
        if model.arch.rope is not None:
            rq, rk = (
                torch.stack(
                    [
                        token if cell is None else naive_rotation(token, *cell, model, span)
                        for token, cell in zip(tokens, cells, strict=True)
                    ]
                )
                for tokens in (q, k)
            )
        logits = rq @ rk.t() / math.sqrt(q.shape[1])
        if attn.rel_pos_h is not None:
            for a, (ya, xa) in enumerate(cells):
                for b, (yb, xb) in enumerate(cells):
                    logits[a, b] += q[a] @ attn.rel_pos_h[ya - yb + span[0] - 1]
                    logits[a, b] += q[a] @ attn.rel_pos_w[xa - xb + span[1] - 1]
        out.append(logits.softmax(1) @ v)
    return attn.proj(attn.norm(torch.cat(out, dim=1)))


def naive_forward(model: CroprViT, img: Tensor, window: int | None, global_blocks: tuple) -> Tensor:
    """Dense forward of one image on a raster grid (h, w, C)."""
    h, w = img.shape[2] // model.patch_size, img.shape[3] // model.patch_size
    x = model.patch_embed(img)[0]
    if model.pos_embed is not None:
        x = x + model.pos_embed[0]
    x = x.view(h, w, -1)
    for i, block in enumerate(model.blocks):
        y = block.norm1(x)
        if window is None or i in global_blocks:
            cells = [(a, b) for a in range(h) for b in range(w)]
            y = naive_attention(block.attn, y.reshape(h * w, -1), model, cells, (h, w)).view(
                h, w, -1
            )
        else:
            pad_h, pad_w = -h % window, -w % window
            padded = F.pad(y, (0, 0, 0, pad_w, 0, pad_h))
            cells = [(a, b) for a in range(window) for b in range(window)]
            for top in range(0, h + pad_h, window):
                for left in range(0, w + pad_w, window):
                    part = padded[top : top + window, left : left + window]
                    done = naive_attention(
                        block.attn, part.reshape(window**2, -1), model, cells, (window, window)
                    )
                    padded = padded.clone()
                    padded[top : top + window, left : left + window] = done.view_as(part)
            y = padded[:h, :w]
        x = x + block.ls1(y)
        x = block.apply_mlp(x.reshape(1, h * w, -1)).view(h, w, -1)
    return model.norm(x).permute(2, 0, 1)[None]


def naive_pruned_forward(
    model: CroprViT, img: Tensor, num_keep: dict[int, int], rectangles: dict[int, Cell]
) -> Tensor:
    """Forward of one image through a model with Cropr, as the paper writes it.

    Full query matrix, full sort, tokens kept in a Python list of (feature, raster id); windows
    must divide the grid. ``rectangles``: rows and columns of the survivors' rectangle, for
    survivor_order='raster'.
    """
    side = model.window_size
    h, w = img.shape[2] // model.patch_size, img.shape[3] // model.patch_size
    x = model.patch_embed(img)[0]
    prefix = []
    if model.pos_embed is not None:
        prefix = [model.cls_token[0, 0] + model.pos_embed[0, 0]] if model.num_prefix else []
        x = x + model.pos_embed[0, model.num_prefix :]
    elif model.num_prefix:
        prefix = [model.cls_token[0, 0], *model.reg_token[0]]
    ids = list(range(h * w))
    if side is not None:
        ids.sort(key=lambda i: (i // w // side, i % w // side, i // w, i % w))
    canonical = list(ids)
    alive = [(x[i], i) for i in ids]
    dropped: list[tuple[Tensor, int]] = []
    for number, block in enumerate(model.blocks):
        if number == model.depth - 1 and model.fusion is not None:
            alive = sorted(alive + dropped, key=lambda t: canonical.index(t[1]))
            dropped = []
        tokens = torch.stack(prefix + [t for t, _ in alive])
        y = block.norm1(tokens)
        cells: list[Cell | None] = [None] * len(prefix) + [(i // w, i % w) for _, i in alive]
        if side is None or number in model.global_block_indexes:
            y = naive_attention(block.attn, y, model, cells, (h, w))
        else:
            if model.positions.window_rope == "slot":
                cells = [(i % side**2 // side, i % side) for i in range(len(alive))]
            # The prefix sees all tokens, and each window sees the prefix.
            front, span = len(prefix), (side, side)
            cells = [None] * front + cells[-len(alive) :]
            parts = [naive_attention(block.attn, y, model, cells, span)[:front]] if front else []
            for i in range(front, len(y), side**2):
                rows = [*range(front), *range(i, i + side**2)]
                seen = naive_attention(block.attn, y[rows], model, [cells[r] for r in rows], span)
                parts.append(seen[front:])
            y = torch.cat(parts)
        tokens = block.apply_mlp((tokens + block.ls1(y))[None])[0]
        prefix = list(tokens[: len(prefix)])
        alive = [(t, i) for t, (_, i) in zip(tokens[len(prefix) :], alive, strict=True)]
        if number in num_keep:
            matrix = model.reducers[str(number)].queries[0] @ torch.stack([t for t, _ in alive]).t()
            ranking = (
                matrix.sum(0).argsort(descending=True, stable=True)[: num_keep[number]].tolist()
            )
            dropped += [t for n, t in enumerate(alive) if n not in ranking]
            alive = [t for n, t in enumerate(alive) if n in ranking]
            if number in rectangles:
                columns = rectangles[number][1]
                alive.sort(key=lambda t: t[1])
                places = sorted(
                    range(len(alive)),
                    key=lambda p: (p // columns // side, p % columns // side, p // columns),
                )
                alive = [alive[p] for p in places]
    full = sorted(alive + dropped, key=lambda t: t[1])
    features = model.norm(torch.stack([t for t, _ in full]))
    return features.t().reshape(1, -1, h, w)
