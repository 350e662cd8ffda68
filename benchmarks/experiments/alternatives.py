"""Other ways to compute parts of an encoder, timed in turn with the way that is used.

Sizes are those of EVA-02-L at 512 pixels. Before anything is timed, each alternative is checked to
give the same numbers as the first of its group, up to the rounding of its precision.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm.engine.console import check_outputs, show_rounds
from cropr_mm.layers.patch_embed import PatchEmbed
from cropr_mm.ops.rope import Rope, apply_rope
from cropr_mm.ops.select import select_topk
from cropr_mm.profiling.environment import git_commit, machine_name, versions
from cropr_mm.profiling.latency import measure
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.structures import Tokens
from cropr_mm.tokens.restore import restore_tokens

CHANNELS, HEADS, HIDDEN, PATCH, SIDE = 1024, 16, 2730, 16, 512
GRID = (SIDE // PATCH, SIDE // PATCH)
TOKENS = (1024, 624, 224)
REMOVED = 40
Call = Callable[[], Tensor | list[Tensor]]


def patches(mode: Mode) -> dict[str, Call]:
    """Patch embedding: a matrix product, or the convolution that it equals."""
    embed = mode.place(PatchEmbed(PATCH, 3, CHANNELS))
    last = torch.channels_last
    img = mode.place(torch.randn(1, 3, SIDE, SIDE))
    kernel, bias = embed.proj.weight.to(memory_format=last), embed.proj.bias

    def convolve(img: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(img, kernel, bias, stride=PATCH).flatten(2).transpose(1, 2)

    return {
        "matrix product": lambda: embed(img),
        "convolution": lambda: convolve(img, embed.proj.weight),
        "convolution, channels last": lambda: convolve(img.to(memory_format=last), kernel),
    }


def rotation(mode: Mode) -> dict[str, Call]:
    """Rotary embedding of queries and keys, in pairs of neighboring channels."""
    width = CHANNELS // HEADS
    qk = mode.place(torch.randn(1, TOKENS[0], 3, HEADS, width))[:, :, :2]
    angles = torch.randn(1, TOKENS[0], width // 2)
    cos, sin = (mode.place(table) for table in (angles.cos(), angles.sin()))
    signed = torch.stack([-sin, sin], dim=-1).flatten(-2)
    rope = Rope(cos.repeat_interleave(2, dim=-1), signed)
    place = torch.arange(width, device=cos.device) ^ 1

    def on_halves() -> Tensor:
        a, b = qk.unflatten(-1, (-1, 2)).unbind(-1)
        c, s = cos[:, :, None, None], sin[:, :, None, None]
        return torch.stack([a * c - b * s, b * c + a * s], dim=-1).flatten(-2)

    def by_index() -> Tensor:
        partner = qk.index_select(-1, place)
        return torch.addcmul(qk * rope.cos[:, :, None, None], partner, signed[:, :, None, None])

    calls: dict[str, Call] = {
        "two products and a swap": lambda: apply_rope(qk, rope, half=False),
        "four products on halves": on_halves,
        "partners by index": by_index,
    }
    for name, call in list(calls.items())[:2]:
        calls[f"{name}, compiled"] = torch.compile(call, dynamic=False)
    return calls


def attention(mode: Mode) -> dict[str, Call]:
    """Global attention: the fused kernel, or two products around a softmax."""
    shape = (1, TOKENS[0], HEADS, CHANNELS // HEADS)
    q, k, v = (mode.place(torch.randn(shape)).transpose(1, 2) for _ in range(3))
    return {
        "fused": lambda: F.scaled_dot_product_attention(q, k, v),
        "products and softmax": lambda: (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v,
    }


def packed(mode: Mode) -> dict[str, Call]:
    """The four linear layers of a block, weights as stored or packed for the CPU's kernels.

    What frozen compiled forms call (``mkldnn``); operands stay in the cache where they fit.
    """
    widths = [(CHANNELS, 3 * CHANNELS), (CHANNELS, CHANNELS), (CHANNELS, 2 * HIDDEN)]
    widths.append((HIDDEN, CHANNELS))
    calls: dict[str, Call] = {}
    for count in TOKENS:
        inputs = [mode.place(torch.randn(1, count, before)) for before, _ in widths]
        weights = [mode.place(torch.randn(after, before) * 0.02) for before, after in widths]
        biases = [mode.place(torch.randn(after)) for _, after in widths]
        kernels = [torch.ops.mkldnn._reorder_linear_weight(w, count) for w in weights]

        def stored(x: list = inputs, w: list = weights, b: list = biases) -> list[Tensor]:
            return [F.linear(*layer) for layer in zip(x, w, b, strict=True)]

        def reordered(x: list = inputs, w: list = kernels, b: list = biases) -> list[Tensor]:
            layers = zip(x, w, b, strict=True)
            return [torch.ops.mkldnn._linear_pointwise(*layer, "none", [], "") for layer in layers]

        calls[f"{count} tokens, stored"] = stored
        calls[f"{count} tokens, packed"] = reordered
    return calls


def choice(mode: Mode) -> dict[str, Call]:
    """Choice of the tokens that stay, by their scores."""
    scores = torch.randn(1, TOKENS[0], device=mode.device)
    num_keep = TOKENS[0] - REMOVED

    def by_sorting() -> list[Tensor]:
        order = scores.argsort(dim=1, descending=True, stable=True)
        kept, dropped = order.split([num_keep, REMOVED], dim=1)
        return [kept.sort(dim=1).values, dropped.sort(dim=1).values]

    return {
        "choice by two thresholds": lambda: list(select_topk(scores, num_keep)),
        "choice by sorting": by_sorting,
    }


def score(mode: Mode) -> dict[str, Call]:
    """Scores of all tokens by one query, in float32."""
    x = mode.place(torch.randn(1, TOKENS[0], CHANNELS))
    query = torch.randn(CHANNELS, device=x.device)
    return {
        "score by a product": lambda: x.float() @ query,
        "score by a sum": lambda: (x.float() * query).sum(dim=-1),
    }


def fusion(mode: Mode) -> dict[str, Call]:
    """All tokens of the grid from those that are left and those of 22 steps."""
    cells = GRID[0] * GRID[1]
    index = torch.randperm(cells, device=mode.device)[None]
    x = mode.place(torch.randn(1, cells, CHANNELS))
    counts = [cells - 22 * REMOVED, *[REMOVED] * 22]
    kept, *dropped = (
        Tokens(part, places, GRID)
        for part, places in zip(x.split(counts, dim=1), index.split(counts, dim=1), strict=True)
    )

    def each_to_its_place() -> Tensor:
        full = torch.empty_like(x)
        for part in (kept, *dropped):
            full[0].index_copy_(0, part.index[0], part.x[0])
        return full

    return {
        "joined, then put in order": lambda: restore_tokens(kept, dropped, None).x,
        "each step's to their places": each_to_its_place,
    }


GROUPS: dict[str, Callable[[Mode], dict[str, Call]]] = {
    "patches": patches,
    "rotation": rotation,
    "attention": attention,
    "packed": packed,
    "choice": choice,
    "score": score,
    "fusion": fusion,
}


def check_equal(calls: Mapping[str, Call], mode: Mode) -> None:
    """Raise ValueError if an alternative gives other numbers; other shapes start a new group."""
    tolerance = 16 * torch.finfo(mode.torch_dtype).eps
    expected: list[Tensor] = []
    for name, call in calls.items():
        result = call()
        got = [y.float() for y in (result if isinstance(result, list) else [result])]
        if [y.shape for y in expected] != [y.shape for y in got]:
            expected = got
        for right, y in zip(expected, got, strict=True):
            error = float((y - right).abs().max() / right.abs().max())
            if not error <= tolerance:
                raise ValueError(f"{name} is off by {error:.1e} of the largest value")


def run(args: argparse.Namespace) -> None:
    """Check, time, print and write, group by group.

    Args:
        args: Options of ``benchmarks/speed.py alternatives``.

    Raises:
        ValueError: If options do not fit, or an alternative gives other numbers.
    """
    check_outputs(json=args.json)
    mode = Mode(args.dtype, "auto", args.device)
    names = args.groups or [n for n in GROUPS if n != "packed" or args.device == "cpu"]
    record: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine_name(mode.device),
        "versions": versions(),
        "commit": git_commit(),
        "dtype": mode.dtype,
        "groups": {},
    }
    print(f"{machine_name(mode.device)}: {mode}, {torch.get_num_threads()} CPU threads")
    torch.manual_seed(0)
    for name in names:
        with mode.running():
            calls = GROUPS[name](mode)
            check_equal(calls, mode)
            with show_rounds(name, args.rounds) as on_round:
                times = measure(
                    calls,
                    rounds=args.rounds,
                    warmup=3,
                    device=mode.device,
                    on_round=on_round,
                )
        base = next(iter(calls))
        record["groups"][name] = times.as_dict(base)
        idle = "" if times.is_idle else f"; NOT IDLE, load {times.load:.2f}: does not count"
        print(f"\n{name}{idle}\n{times.table(base)}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")
        print(f"\nwritten to {args.json}")
