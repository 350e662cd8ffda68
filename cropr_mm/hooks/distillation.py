"""Distillation from a frozen dense teacher to a pruned model.

B images, N patch tokens, C channels, K classes.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.backbones.find import find_vits
from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.load import select_weights
from cropr_mm.hooks.loss_listener import LossListener
from cropr_mm.reducers import KeepDecision
from cropr_mm.structures import Reduction
from cropr_mm.tokens.policy import is_soft


@dataclass(frozen=True)
class Distillation:
    """Losses against the same model without pruning, whose weights stay as they are.

    ``loss_teacher_logits`` is the divergence of the teacher's classes from the student's,
    ``loss_teacher_tokens`` the distance between features of both encoders at the tokens that
    the student keeps, behind the last block and the final norm. The latter needs a method that
    masks in training, DynamicViT or dTPS: others have no token left of those that they drop.

    Attributes:
        checkpoint: Weights of the whole dense model, as its training wrote them.
        logits: Path of the module whose output are logits of classes, (B, K) or maps (B, K, h, w),
            such as ``head.fc`` of a classifier or ``decode_head.conv_seg`` of a segmenter; classes
            that exclude each other. None leaves out the first loss, as for detectors and several
            labels an image.
        logit_weight: Factor of the first loss.
        token_weight: Factor of the second, 0 to leave it out.
        token_loss: 'mse', the mean square, or 'kl', the divergence of the softmax over channels.

    Raises:
        ValueError: If a weight is negative, nothing is left to learn, or there is no such loss.

    Source: Rao et al., DynamicViT (arXiv 2106.02034), equations 10 to 12, with the released code's
    weights, where LV-ViT has the divergence and all others the mean square. The teacher sees the
    very inputs of the student, mixed ones too.
    """

    checkpoint: str
    logits: str | None = None
    logit_weight: float = 0.5
    token_weight: float = 0.5
    token_loss: Literal["mse", "kl"] = "mse"

    def __post_init__(self) -> None:
        if min(self.logit_weight, self.token_weight) < 0:
            raise ValueError(
                f"expected weights >= 0, got {self.logit_weight} and {self.token_weight}"
            )
        if not self.token_weight and (self.logits is None or not self.logit_weight):
            raise ValueError("expected something to learn from the teacher, got weights of 0")
        if self.token_loss not in ("mse", "kl"):
            raise ValueError(f"expected token_loss 'mse' or 'kl', got {self.token_loss!r}")

    def listen(self, model: nn.Module) -> "DistillationListener":
        """Load the teacher and listen to the student, an unwrapped model without listeners.

        Raises:
            ValueError: If the model has no such module, not one CroprViT, or a reducer that does
                not mask.
            CheckpointError: If the weights are not those of the dense model.
        """
        return DistillationListener(model, self)


@dataclass
class _Captured:
    """What one model said in one pass.

    Attributes:
        inputs: Images of the pass.
        x: Tokens behind the last block, prefix first, shape (B, P + N, C).
        kept: Decisions about them, shape (B, N); None of a dense model.
        logits: Of classes, shape (B, K) or (B, K, h, w).
    """

    inputs: Tensor
    x: Tensor | None = None
    kept: Tensor | None = None
    logits: Tensor | None = None


class _Taps:
    """Notes what a model says into what ``captured`` gives, unless that is None."""

    def __init__(
        self, model: nn.Module, logits: str | None, captured: Callable[[], _Captured | None]
    ) -> None:
        backbones = list(find_vits(model).values())
        if len(backbones) != 1:
            raise ValueError(f"a teacher expects a model with one CroprViT, got {len(backbones)}")
        self.backbone = backbones[0]
        self.head = None
        if logits is not None:
            try:
                self.head = model.get_submodule(logits)
            except AttributeError as error:
                raise ValueError(
                    f"expected a module {logits} in {type(model).__name__} (teacher.logits), "
                    "found none"
                ) from error
        self.captured = captured

    def hooks(self) -> list[tuple[nn.Module, Callable]]:
        """Modules, and the forward hooks to register there."""
        found: list[tuple[nn.Module, Callable]] = [(self.backbone.blocks[-1], self._note_tokens)]
        if len(self.backbone.reducers):
            found.append((list(self.backbone.reducers.values())[-1], self._note_decisions))
        if self.head is not None:
            found.append((self.head, self._note_logits))
        return found

    def features(self, captured: _Captured) -> Tensor:
        """Patch features behind the final norm, shape (B, N, C), float32."""
        assert captured.x is not None, "every pass ends with the last block"
        prefix = self.backbone.prefix_at(self.backbone.depth - 1)
        return self.backbone.norm(captured.x)[:, prefix:].float()

    def _note_tokens(self, block: nn.Module, args: tuple, output: tuple) -> None:
        captured = self.captured()
        if captured is not None:
            captured.x = output[0]

    def _note_decisions(self, reducer: nn.Module, args: tuple, result: Reduction) -> None:
        captured = self.captured()
        if captured is not None and is_soft(result.kept):
            captured.kept = result.kept.policy

    def _note_logits(self, head: nn.Module, args: tuple, output: Tensor) -> None:
        captured = self.captured()
        if captured is not None:
            captured.logits = output


class DistillationListener(LossListener[_Captured]):
    """Adds the losses of :class:`Distillation` to those of a model."""

    def __init__(self, model: nn.Module, options: Distillation) -> None:
        self.options = options
        # partial, not lambda: copies and pickles of the model carry their own listener
        self._student = _Taps(model, options.logits, partial(getattr, self, "state"))
        reducers = list(self._student.backbone.reducers.values())
        masking = bool(reducers) and all(isinstance(r, KeepDecision) for r in reducers)
        if options.token_weight and not masking:
            names = ", ".join(sorted({type(r).__name__ for r in reducers})) or "no reducer"
            raise ValueError(
                "a teacher of tokens needs a reducer that masks them in training (DynamicViT, "
                f"DTPS), got {names}; set teacher.token_weight=0"
            )
        self._teacher_model = _dense_copy(model, options.checkpoint)
        self._answer: _Captured | None = None
        self._teacher = _Taps(
            self._teacher_model, options.logits, partial(getattr, self, "_answer")
        )
        for module, hook in self._teacher.hooks():
            module.register_forward_hook(hook)
        super().__init__(model)
        for module, hook in self._student.hooks():
            self.listen(module, hook)

    def start(self, given: dict[str, Any]) -> _Captured:
        """Keep the inputs of a forward pass and capture the student's outputs."""
        return _Captured(given["inputs"])

    def losses(self, state: _Captured) -> dict[str, Tensor]:
        """Losses against the teacher's outputs for the same inputs."""
        truth = self._ask(state.inputs)
        losses = {}
        if self.options.logits is not None:
            if state.logits is None or truth.logits is None:
                raise RuntimeError(
                    f"teacher.logits names {self.options.logits}, which did not run in this pass; "
                    "expected a module whose output are logits of classes"
                )
            rows = (logits.float().movedim(1, -1) for logits in (state.logits, truth.logits))
            divergence = _divergence(*rows).mean()  # over images or cells
            losses["loss_teacher_logits"] = self.options.logit_weight * divergence
        if self.options.token_weight:
            distance = self._distance(state, truth)
            losses["loss_teacher_tokens"] = self.options.token_weight * distance
        return losses

    def _distance(self, state: _Captured, truth: _Captured) -> Tensor:
        """Between features, mean over kept tokens."""
        wanted, given = self._teacher.features(truth).detach(), self._student.features(state)
        if self.options.token_loss == "mse":
            apart = (given - wanted).square().mean(dim=2)  # (B, N)
        else:
            apart = _divergence(given, wanted)
        kept = torch.ones_like(apart) if state.kept is None else state.kept.detach()
        return (apart * kept).sum() / kept.sum().clamp(min=1)

    @torch.no_grad()
    def _ask(self, inputs: Tensor) -> _Captured:
        """What the teacher says of the same inputs."""
        self._answer = captured = _Captured(inputs)
        if self._teacher.head is None:
            self._teacher.backbone(inputs)
        else:
            self._teacher_model(inputs, mode="tensor")
        self._answer = None
        return captured


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the softmax of (..., K) logits, shape (...)."""
    said, truth = student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
    return F.kl_div(said, truth, log_target=True, reduction="none").sum(dim=-1)


def _dense_copy(model: nn.Module, checkpoint: str) -> nn.Module:
    """The model without pruning, with weights of its own that nothing trains."""
    teacher = copy.deepcopy(model)
    for path, backbone in find_vits(teacher).items():
        parent, _, name = path.rpartition(".")
        setattr(teacher.get_submodule(parent), name, backbone.unpruned())
    _, _, weights = select_weights(checkpoint, "")
    try:
        wrong = teacher.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # other shapes
        raise CheckpointError(f"{checkpoint} does not fit the teacher: {error}") from error
    unexpected = [name for name in wrong.unexpected_keys if ".reducers." not in name]
    if wrong.missing_keys or unexpected:
        raise CheckpointError(
            f"{checkpoint}: expected the whole dense model for a teacher; missing "
            f"{wrong.missing_keys[:3] or 'none'}, unexpected {unexpected[:3] or 'none'}"
        )
    return teacher.eval().requires_grad_(False)
