"""Multiply-adds and parameters of an encoder and its model, counted on the meta device.

No weights and no data exist there, so any image size works in seconds. One multiply-add (MAC) is
one operation, batch size 1, evaluation mode. Published GFLOPs of token pruning leave attention's
own products out: ``linear`` below.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
_ATTENTION_OPS = frozenset({"bmm", "baddbmm"})
_DENSE_HEADS = ("rpn_head", "bbox_head", "mask_head", "decode_head", "head")
_TRAINING_ONLY = ("auxiliary_head",)


@dataclass(frozen=True)
class Macs:
    """Multiply-adds by kind.

    Attributes:
        layers: Of linear and convolution layers.
        scorers: Of matrix products inside reducers.
        attention: Of the products of activations with each other, QK^T and AV.
    """

    layers: int = 0
    scorers: int = 0
    attention: int = 0

    @property
    def linear(self) -> int:
        """The published convention: products with weights, so layers and scorers."""
        return self.layers + self.scorers

    @property
    def total(self) -> int:
        """All of them."""
        return self.linear + self.attention

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(
            self.layers + other.layers,
            self.scorers + other.scorers,
            self.attention + other.attention,
        )

    def __sub__(self, other: "Macs") -> "Macs":
        return self + Macs(-other.layers, -other.scorers, -other.attention)

    def as_dict(self) -> dict[str, int]:
        """Values for JSON."""
        return {
            "macs_linear": self.linear,
            "macs_total": self.total,
            "macs_scorers": self.scorers,
            "macs_attention": self.attention,
        }


@dataclass(frozen=True)
class BlockCost:
    """Tokens that enter one block, prefix included, and what the block and its reducer cost."""

    tokens: int
    macs: Macs


@dataclass(frozen=True)
class EncoderCost:
    """Cost of one encoder at one image size.

    Attributes:
        macs: Of the whole encoder, patch embedding included.
        macs_deployed: The same after ``switch_to_deploy``, which may fold products.
        blocks: Of each block in order.
        params_trained: Parameters with the auxiliary parts that only training has.
        params_deployed: Parameters after ``switch_to_deploy``.
    """

    macs: Macs
    macs_deployed: Macs
    blocks: tuple[BlockCost, ...]
    params_trained: int
    params_deployed: int

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        blocks = [
            {"index": i, "tokens": block.tokens, **block.macs.as_dict()}
            for i, block in enumerate(self.blocks)
        ]
        return {
            **self.macs.as_dict(),
            "deployed": self.macs_deployed.as_dict(),
            "params_trained": self.params_trained,
            "params_deployed": self.params_deployed,
            "blocks": blocks,
        }


@dataclass(frozen=True)
class ModelCost:
    """Cost of a whole model at one image size.

    Attributes:
        parts: MACs by part, with what the figure stands for.
        not_counted: Parts without a figure, and why.
        params_trained: Parameters with the auxiliary parts that only training has.
        params_deployed: Parameters after ``switch_to_deploy`` of the encoder.
    """

    parts: dict[str, tuple[Macs, str]]
    not_counted: dict[str, str]
    params_trained: int
    params_deployed: int

    @property
    def macs(self) -> Macs:
        """Sum over ``parts``."""
        return sum((macs for macs, _ in self.parts.values()), Macs())

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        parts = {
            name: {**macs.as_dict(), "counted": text} for name, (macs, text) in self.parts.items()
        }
        return {
            **self.macs.as_dict(),
            "params_trained": self.params_trained,
            "params_deployed": self.params_deployed,
            "parts": parts,
            "not_counted": self.not_counted,
        }


def encoder_cost(backbone: nn.Module, img_size: tuple[int, int] | None = None) -> EncoderCost:
    """Count a backbone that reduces tokens on one grid, such as :class:`cropr_mm.CroprViT`.

    Args:
        backbone: Encoder, built on the meta device, in evaluation mode.
        img_size: Height and width in pixels. Default: the encoder's own.

    Raises:
        ValueError: If the encoder is not on the meta device, is in training mode, or the image size
            does not fit.
    """
    _check(backbone)
    size = backbone.native_size if img_size is None else img_size
    counter = _Counter()
    entries: dict[int, Macs] = {}

    def enter(block: int) -> None:
        entries.setdefault(block, counter.macs)

    with counter.running(backbone):
        for i, block in enumerate(backbone.blocks):
            # A reducer between attention and MLP makes the backbone call parts of the block.
            for module in block.modules():
                counter.before(module, partial(enter, i))
        backbone(_image(backbone, size))
    ends = [*(entries[i] for i in range(1, len(entries))), counter.macs]
    grid = backbone.patch_grid((size[0], size[1]))
    blocks = tuple(
        BlockCost(tokens, ends[i] - entries[i])
        for i, tokens in enumerate(backbone.tokens_per_block(grid))
    )
    stripped, deployed = _Counter(), _deployed(backbone)
    with stripped.running(deployed):
        deployed(_image(deployed, size))
    return EncoderCost(counter.macs, stripped.macs, blocks, *_parameters(backbone))


def model_cost(model: nn.Module, img_size: tuple[int, int] | None = None) -> ModelCost:
    """Count a detector, segmenter or classifier as far as it runs on the meta device.

    Backbone, neck and dense heads are run. Heads on regions of interest get ``max_per_img``
    regions, the most that the test settings allow, as pooled features; RoIAlign, non-maximum
    suppression and other steps without layers count nothing. What cannot be run is named in the
    result.

    Args:
        model: Model with a ``backbone``, built on the meta device, in evaluation mode.
        img_size: Height and width in pixels. Default: the encoder's own.

    Raises:
        ValueError: If the model is not on the meta device or is in training mode.
    """
    _check(model)
    size = model.backbone.native_size if img_size is None else img_size
    counter = _Counter()
    parts: dict[str, tuple[Macs, str]] = {}
    not_counted: dict[str, str] = {}

    def count(name: str, text: str, function: Callable[[], Any]) -> Any:
        before = counter.macs
        try:
            return function()
        except (
            Exception
        ) as error:  # a part that needs real numbers; its share is reported as missing
            first = str(error).splitlines()[0] if str(error) else ""
            not_counted[name] = f"does not run on the meta device: {type(error).__name__}: {first}"
            return None
        finally:
            if name not in not_counted:
                parts[name] = counter.macs - before, text

    with counter.running(model):
        features = count("backbone", "whole", lambda: model.backbone(_image(model, size)))
        if features is not None and getattr(model, "neck", None) is not None:
            features = count("neck", "whole", lambda: model.neck(features))
        unknown = _unknown_parts(model)
        for name in unknown:
            not_counted[name] = "a kind of part that this counter does not know"
        if features is None or unknown:
            not_counted["heads"] = "they need the output of a part that was not counted"
        else:
            for name, text, function in _heads(model, features):
                count(name, text, function)
    return ModelCost(parts, not_counted, *_parameters(model))


def _heads(model: nn.Module, features: Any) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, description and call of each head that inference runs."""
    for name in _DENSE_HEADS:
        head = getattr(model, name, None)
        if head is not None:
            yield name, "whole", partial(head.forward, features)
    roi_head = getattr(model, "roi_head", None)
    if roi_head is None:
        return
    limits = {"bbox": model.test_cfg.rpn.max_per_img, "mask": model.test_cfg.rcnn.max_per_img}
    for kind, regions in limits.items():
        heads = _as_list(getattr(roi_head, f"{kind}_head", None))
        extractors = _as_list(getattr(roi_head, f"{kind}_roi_extractor", None))
        extractors = extractors or _as_list(roi_head.bbox_roi_extractor)
        for stage, head in enumerate(heads):
            extractor = extractors[min(stage, len(extractors) - 1)]
            side = extractor.roi_layers[0].output_size
            pooled = torch.empty(regions, extractor.out_channels, *side, device="meta")
            yield (
                f"roi_head.{kind}_head.{stage}",
                f"{regions} regions (the most that test_cfg allows) of {side[0]}x{side[1]} cells",
                partial(head, pooled),
            )


def _unknown_parts(model: nn.Module) -> list[str]:
    """Parts with parameters that no rule here covers, such as the encoder and decoder of DETR."""
    known = {"backbone", "neck", "roi_head", *_DENSE_HEADS, *_TRAINING_ONLY}
    return [
        name
        for name, child in model.named_children()
        if name not in known and next(child.parameters(), None) is not None
    ]


def _as_list(modules: nn.Module | None) -> list[nn.Module]:
    if modules is None:
        return []
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _check(module: nn.Module) -> None:
    device = next(module.parameters()).device.type
    if device != "meta" or module.training:
        mode = "training" if module.training else "evaluation"
        raise ValueError(
            f"expected a model on the meta device in evaluation mode, got {device} in {mode} mode"
        )


def _image(module: nn.Module, size: tuple[int, int]) -> Tensor:
    convolution = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    return torch.empty(1, convolution.in_channels, *size, device="meta")


def meta_twin(module: nn.Module) -> nn.Module:
    """Copy of a module on the meta device, in evaluation mode; it takes no memory."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(module, memo).eval()


def _parameters(module: nn.Module) -> tuple[int, int]:
    """Number of parameters as trained and as deployed."""
    trained, stripped = (
        sum(p.numel() for p in m.parameters()) for m in (module, _deployed(module))
    )
    return trained, stripped


def _deployed(module: nn.Module) -> nn.Module:
    """Copy of an encoder, or of a model, whose encoder is stripped for inference."""
    deployed = copy.deepcopy(module)
    backbone = getattr(deployed, "backbone", deployed)
    if hasattr(backbone, "switch_to_deploy"):
        backbone.switch_to_deploy()
    return deployed


@dataclass
class _Counter:
    """Runs torch's operation counter and splits its count by kind."""

    macs_in_reducers: Macs = field(default_factory=Macs)

    def __post_init__(self) -> None:
        formulas = {
            aten.mv: _mv_flop,
            aten._euclidean_dist: _distance_flop,
            aten._cdist_forward: _distance_flop,
        }
        self._flops = FlopCounterMode(display=False, custom_mapping=formulas)
        self._handles: list[Any] = []
        self._entry = Macs()

    @contextmanager
    def running(self, module: nn.Module) -> Iterator[None]:
        """Count inside the block; hooks that were added are removed at its end."""
        for name, child in module.named_modules():
            if name.rpartition(".")[0].endswith("reducers"):
                self.before(child, self._enter_reducer)
                self._handles.append(child.register_forward_hook(self._leave_reducer))
        try:
            with torch.no_grad(), self._flops:
                yield
        finally:
            for handle in self._handles:
                handle.remove()

    def before(self, module: nn.Module, function: Callable[[], Any]) -> None:
        """Call a function whenever a module is about to run."""

        def hook(*_: Any) -> None:
            function()

        self._handles.append(module.register_forward_pre_hook(hook))

    @property
    def macs(self) -> Macs:
        """Count so far."""
        raw = self._raw
        return Macs(
            raw.layers - self.macs_in_reducers.layers,
            self.macs_in_reducers.total,
            raw.attention - self.macs_in_reducers.attention,
        )

    @property
    def _raw(self) -> Macs:
        """Count so far, by operation only: on meta, attention is made of batched products."""
        attention = layers = 0
        for op, flops in self._flops.get_flop_counts().get("Global", {}).items():
            name = str(op).rpartition(".")[2]
            if name in _ATTENTION_OPS or "attention" in name:
                attention += flops // 2
            else:
                layers += flops // 2
        return Macs(layers=layers, attention=attention)

    def _enter_reducer(self) -> None:
        self._entry = self._raw

    def _leave_reducer(self, *_: Any) -> None:
        self.macs_in_reducers += self._raw - self._entry


def _mv_flop(matrix: Any, vector: Any, out_shape: Any = None, **_: Any) -> int:
    """Operations of a matrix-vector product, from shapes; torch's counter has no entry for it."""
    return 2 * matrix[0] * matrix[1]


def _distance_flop(one: Any, other: Any, *_: Any, **__: Any) -> int:
    """Operations of all distances between two sets of rows, (..., n, D) and (..., m, D).

    One multiply-add for each feature of each pair, whether or not torch makes a product of it.
    """
    return 2 * math.prod(one) * other[-2]
