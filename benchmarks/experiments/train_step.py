"""Training steps of a Cropr config and of its dense twin: time, multiply-adds and memory.

Encoder, a linear head and the auxiliary losses on random images and labels; all variants take turns
in one process. Next to each measured speed-up stands what the multiply-adds of the step allow.
Needs torch, torchvision, timm, mmengine and mmcv (which the hooks import), no host library.
"""

import argparse
import copy
import gc
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from cropr_mm.engine.console import check_outputs, show_rounds
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.hooks.router_hook import freeze_all_but_routers, set_modes
from cropr_mm.profiling.candidates import native_size, with_image_size
from cropr_mm.profiling.environment import git_commit, machine_name, peak_memory, versions
from cropr_mm.profiling.latency import Latencies, measure
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.registry import MODELS
from cropr_mm.targets import ClassTarget, PatchLabelTarget, build_target
from cropr_mm.targets.base import LabelTarget
from cropr_mm.text_table import format_table
from experiments.encoder_memory import peak_bytes

DENSE, EXACT = "dense", "cropr, exact"
ROUTERS, PRUNED_ROUTERS = "routers", "pruned routers"
"""Encoder and head frozen, the modules of Cropr learn in a dense or a pruned pass."""


class Model(nn.Module):
    """Encoder and what gives it a gradient.

    A linear layer with cross-entropy for segmenters (per pixel, after bilinear upsampling) and
    classifiers; detectors get a random gradient in every place of the feature map.
    """

    def __init__(self, backbone: nn.Module, target: LabelTarget) -> None:
        super().__init__()
        self.backbone = backbone
        self.dense = isinstance(target, PatchLabelTarget)
        self.head = None
        if self.dense or isinstance(target, ClassTarget):
            self.head = nn.Linear(backbone.embed_dim, target.num_classes)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = "loss"
    ) -> dict[str, Tensor]:
        """Loss of the task; the auxiliary ones come by hooks."""
        y = self.backbone(inputs)[0]
        if self.head is None:
            return dict(loss=(y * torch.randn_like(y)).float().mean())
        assert data_samples is not None, "every task with a head has labels"
        if not self.dense:
            labels = torch.cat([sample.gt_label for sample in data_samples])
            return dict(loss=F.cross_entropy(self.head(y).float(), labels))
        logits = self.head(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        logits = F.interpolate(logits, size=inputs.shape[-2:], mode="bilinear")
        labels = torch.cat([sample.gt_sem_seg.data for sample in data_samples])
        return dict(loss=F.cross_entropy(logits.float(), labels, ignore_index=255))


class Encoded(LabelTarget):
    """A target encoded beforehand, for tensors without numbers."""

    def __init__(self, target: LabelTarget, encoded: Tensor) -> None:
        super().__init__(target.num_classes, target.grid)
        self.inner, self.encoded = target, encoded

    def encode(self, data_samples: Any, device: torch.device) -> Tensor:
        """The target made before the timed step."""
        return self.encoded

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of the target inside."""
        return self.inner.loss(logits, target)

    def count(self, target: Tensor) -> Tensor:
        """Cells of the target inside."""
        return self.inner.count(target)


class Step:
    """One training step of one variant, on random images.

    Args:
        cfg: Config of a Cropr model.
        variant: Name; DENSE, EXACT, 'N cells', or ROUTERS or PRUNED_ROUTERS, with ', N cells'.
        batch_size: Images.
        mode: Precision and place.
        optimize: Whether AdamW takes a step.
        target: What auxiliary modules learn. Default: the config's, encoded in every step.
        model: The variant's, in its place. Default: built here.
    """

    def __init__(
        self,
        cfg: Config,
        variant: str,
        batch_size: int,
        mode: Mode,
        optimize: bool = False,
        target: LabelTarget | None = None,
        model: Model | None = None,
    ) -> None:
        torch.manual_seed(0)
        target = target or target_of(cfg)
        self.mode, size = mode, native_size(cfg)
        self.images = torch.randn(batch_size, 3, *size, device=mode.device, dtype=mode.torch_dtype)
        self.samples = random_samples(batch_size, size, target.num_classes, mode.device)
        self.model = (model or mode.place(build(cfg, variant))).train()
        if variant != DENSE:
            cells = re.search(r"(\d+) cells", variant)
            num_cells = int(cells[1]) if cells else None
            AuxiliaryListener(self.model, target, num_cells=num_cells)
        if ROUTERS in variant:
            freeze_all_but_routers(self.model)
            set_modes(self.model)
            self.model.backbone.progress = float(variant.startswith(PRUNED_ROUTERS))
        weights = self.model.parameters()
        self.optimizer = torch.optim.AdamW(weights, lr=1e-6) if optimize else None

    def __call__(self) -> None:
        """Run forward and backward pass once."""
        self.model.zero_grad(set_to_none=True)
        with self.mode.running(gradient=True):
            losses = self.model(self.images, self.samples, mode="loss")
        sum(losses.values()).backward()
        if self.optimizer is not None:
            self.optimizer.step()
        self.model.zero_grad(set_to_none=True)


def build(cfg: Config, variant: str) -> Model:
    """Model of a variant with random weights, on the default device."""
    settings = dict(cfg.model.backbone, init_cfg=None)
    if variant == DENSE:
        settings.update(reducer=None, schedule=None, fusion=None, pad_first=False)
    return Model(MODELS.build(settings), target_of(cfg))


def random_samples(
    count: int, size: tuple[int, int], num_classes: int, device: str
) -> list[SimpleNamespace]:
    """Labels of every kind for each image; a tenth of the pixels is ignored."""
    maps = torch.randint(0, num_classes, (count, 1, *size), device=device)
    maps[:, :, : size[0] // 10] = 255
    boxes = torch.tensor([[0.0, 0.0, size[1] / 2, size[0] / 2]], device=device)
    present = torch.zeros(1, dtype=torch.int64, device=device)
    return [
        SimpleNamespace(
            gt_sem_seg=SimpleNamespace(data=labels),
            gt_label=labels[0, -1, :1],
            gt_instances=SimpleNamespace(bboxes=boxes, labels=present),
            batch_input_shape=size,
        )
        for labels in maps
    ]


def target_of(cfg: Config) -> LabelTarget:
    """Target of the config's auxiliary losses; a classifier's with plain cross-entropy."""
    hooks = [h for h in cfg.get("custom_hooks", []) if "CroprAuxLossHook" in str(h["type"])]
    if len(hooks) != 1:
        raise ValueError(f"expected a config with one CroprAuxLossHook, got {len(hooks)}")
    settings = dict(hooks[0]["target"])
    settings.pop("loss", None)  # a host library's, which costs no more
    with torch.device("meta"):
        encoder = MODELS.build(dict(cfg.model.backbone, init_cfg=None))
    target = build_target(settings, encoder, None)
    assert isinstance(target, LabelTarget), "queries learn classes"
    return target


def encoded_target(cfg: Config, batch_size: int) -> tuple[LabelTarget, Tensor]:
    """The target and what it makes of random labels."""
    target = target_of(cfg)
    samples = random_samples(batch_size, native_size(cfg), target.num_classes, "cpu")
    return target, target.encode(samples, torch.device("cpu"))


def count_macs(cfg: Config, variant: str) -> int:
    """Multiply-adds of one image's step, forward and backward, counted on the meta device."""
    target, encoded = encoded_target(cfg, 1)
    with torch.device("meta"):
        step = Step(
            cfg, variant, 1, Mode(device="meta"), target=Encoded(target, encoded.to("meta"))
        )
        with FlopCounterMode(display=False) as counter:
            step()
    return counter.get_total_flops() // 2


def count_bytes(cfg: Config, variant: str, batch_size: int, mode: Mode) -> dict[str, int]:
    """Bytes of weights, of AdamW's states, and peak of what a step makes without them.

    On torch's fake tensors, with the kernels of the CPU.
    """
    target, encoded = encoded_target(cfg, batch_size)
    with torch.device("meta"):
        model = build(cfg, variant).to(mode.torch_dtype)
    with FakeTensorMode() as fake:
        made: dict[int, Any] = {
            id(t): torch.empty(t.shape, dtype=t.dtype)
            for t in (*model.parameters(), *model.buffers())
        }
        made |= {id(p): nn.Parameter(made[id(p)]) for p in model.parameters()}
        model = copy.deepcopy(model, made)
        target = Encoded(target, fake.from_tensor(encoded))
        step = Step(cfg, variant, batch_size, Mode(mode.dtype, mode.sdpa), False, target, model)
        sizes = {p: p.numel() * p.element_size() for p in step.model.parameters()}
        states = 2 * sum(size for p, size in sizes.items() if p.requires_grad)
        return dict(weights=sum(sizes.values()), optimizer=states, step=peak_bytes(step))


def measured_bytes(make: Callable[[], Step], device: str) -> int | None:
    """Peak on a GPU with only this variant in memory; None elsewhere."""
    if torch.device(device).type != "cuda":
        return None
    step = make()
    step()  # state of the optimizer
    peak = peak_memory(step, device)
    del step
    gc.collect()  # hooks and their modules hold each other
    torch.cuda.empty_cache()
    return peak


def run(args: argparse.Namespace) -> None:
    """Count, measure, print and write.

    Args:
        args: Options of ``benchmarks/speed.py train-step``.

    Raises:
        ValueError: If options or the config do not fit, before anything is measured.
    """
    check_outputs(json=args.json)
    if args.batch_size < 1 or args.rounds < 0:
        raise ValueError(
            f"expected batch size >= 1 and rounds >= 0, got {args.batch_size} and {args.rounds}"
        )
    mode = Mode(args.dtype, args.sdpa, args.device)
    cfg = Config.fromfile(args.config)
    if args.img_size:
        cfg = with_image_size(cfg, tuple(args.img_size))
    if args.checkpoint_blocks:
        cfg.model.backbone.with_cp = args.checkpoint_blocks == "on"
    variants = [DENSE, EXACT, *(f"{n} cells" for n in args.num_cells)]
    if args.routers:
        suffixes = ["", *(f", {n} cells" for n in args.num_cells)]
        variants += [f"{kind}{end}" for end in suffixes for kind in (ROUTERS, PRUNED_ROUTERS)]
    makes = {v: partial(Step, cfg, v, args.batch_size, mode, args.optimizer) for v in variants}
    counts = {
        v: dict(macs=count_macs(cfg, v), **count_bytes(cfg, v, args.batch_size, mode))
        for v in variants
    }
    size = native_size(cfg)
    print(
        f"{args.config}, images of {size[0]}x{size[1]} pixels, batch {args.batch_size}, {mode}, "
        f"on {machine_name(mode.device)}\n\ncounted\n{format_table(count_rows(counts))}"
    )
    record: dict[str, Any] = dict(
        command=shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]]),
        machine=machine_name(mode.device),
        versions=versions(),
        commit=git_commit(),
        dtype=args.dtype,
        img_size=size,
        batch_size=args.batch_size,
        counted=counts,
    )
    if args.rounds:
        peaks = {v: measured_bytes(make, mode.device) for v, make in makes.items()}
        steps = {v: make() for v, make in makes.items()}
        with show_rounds(f"{len(steps)} steps in turn", args.rounds) as on_round:
            times = measure(
                steps,
                rounds=args.rounds,
                items=args.batch_size,
                device=mode.device,
                warmup=1,
                on_round=on_round,
            )
        idle = "" if times.is_idle else f"; NOT IDLE, load {times.load:.2f}: does not count"
        print(f"\nmeasured{idle}\n{time_table(times, counts, peaks)}")
        record["measured"] = {**times.as_dict(base=DENSE), "peak_bytes": peaks}
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")
        print(f"\nwritten to {args.json}")


def allowed(counts: Mapping[str, Mapping[str, int]], variant: str) -> float:
    """Speed-up over dense that the multiply-adds allow."""
    return counts[DENSE]["macs"] / counts[variant]["macs"]


def count_rows(counts: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """Multiply-adds of an image and bytes of a batch, with their ratios to the dense step.

    The last ratio is of all: weights, AdamW's states, and the peak of what the step makes.
    """
    head = ["", "GMAC an image", "MACs allow", "weights GiB", "step GiB", "x dense", "with weights"]
    rows = [[*head, "with states"]]
    dense = counts[DENSE]
    for variant, c in counts.items():
        both = (c["weights"] + c["step"]) / (dense["weights"] + dense["step"])
        row = [f"{c['macs'] / 1e9:.1f}", f"{allowed(counts, variant):.2f}x"]
        row += [f"{c[kind] / 2**30:.3f}" for kind in ("weights", "step")]
        kinds = ("weights", "optimizer", "step")
        every = sum(c[kind] for kind in kinds) / sum(dense[kind] for kind in kinds)
        row += [f"{ratio:.2f}" for ratio in (c["step"] / dense["step"], both, every)]
        rows.append([variant, *row])
    return rows


def time_table(
    times: Latencies, counts: Mapping[str, Mapping[str, int]], peaks: Mapping[str, int | None]
) -> str:
    """Times with what the multiply-adds allow and, on a GPU, the peaks."""
    allows = {v: allowed(counts, v) for v in times.times}
    reached = {v: times.speedup(v, DENSE).value / x for v, x in allows.items()}
    columns = {
        "MACs allow": {v: f"{x:.2f}x" for v, x in allows.items()},
        "of that": {v: f"{x:.2f}" for v, x in reached.items()},
    }
    if all(peaks.values()):
        columns["peak GiB"] = {v: f"{(peak or 0) / 2**30:.2f}" for v, peak in peaks.items()}
        base = peaks[DENSE] or 1
        columns["x dense"] = {v: f"{(peak or 0) / base:.2f}" for v, peak in peaks.items()}
    return times.table(DENSE, columns)
