"""One training step of an encoder: a head, auxiliary losses, random images and labels."""

import re
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.hooks.router_hook import freeze_all_but_routers, set_modes
from cropr_mm.profiling.candidates import native_size
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.registry import MODELS
from cropr_mm.targets import ClassTarget, PatchLabelTarget, build_target
from cropr_mm.targets.base import LabelTarget

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


class EncodedTarget(LabelTarget):
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
