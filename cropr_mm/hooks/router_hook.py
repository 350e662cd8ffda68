"""Train the modules that choose tokens, and nothing else of a model."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from cropr_mm.backbones.find import find_backbones
from cropr_mm.hooks.shares import check_reduces_less, set_share
from cropr_mm.registry import HOOKS

STATE = "cropr_routers"


@HOOKS.register_module()
class CroprRouterHook(Hook):
    """Trains the reducers of a model by their auxiliary losses, and leaves all else as it was.

    Encoder and heads are frozen and in evaluation mode: nothing drops out, and no statistics
    change. The auxiliary losses stop at the encoder, so there is no backward pass through it, and
    the step needs the memory of inference. Losses of the heads are computed without gradient, and
    logged. ``CroprAuxLossHook`` belongs to it.

    With ``progress=0`` nothing is pruned in training (but what ``ConstantRate.absorb_prefix``
    removes), so each module learns from the features of its block in the dense model; validation
    prunes fully.

    Args:
        progress: Share of the full reduction while the modules learn, in [0, 1]. None leaves it to
            a curriculum or to elastic training.

    Raises:
        ValueError: If ``progress`` is out of range; before training, if nothing reduces, or a
            reducer or a fusion learns from the losses of the heads.
    """

    priority = "LOW"

    def __init__(self, progress: float | None = 0.0) -> None:
        if progress is not None and not 0 <= progress <= 1:
            raise ValueError(f"expected progress in [0, 1] or None, got {progress}")
        self.progress = progress

    def check(self, model: nn.Module) -> None:
        """Whether the routers of a model can be trained alone.

        Args:
            model: Model, wrapped or not.

        Raises:
            ValueError: If they cannot.
        """
        if self.progress not in (None, 1.0):
            check_reduces_less(model, type(self).__name__)
        reducers = [r for b in find_backbones(model).values() for r in b.reducers.values()]
        learn = [r for r in reducers if "auxiliary" in dict(r.named_children())]
        others = {type(r).__name__ for r in reducers if r not in learn or not r.stop_gradient}
        if not reducers or others:
            raise ValueError(
                "expected reducers that learn from their auxiliary losses alone, such as "
                f"cropr_mm.Cropr, got {', '.join(sorted(others)) or 'a model without'}: their "
                "training is --trainable all"
            )
        for backbone in find_backbones(model).values():
            if backbone.fusion is not None and any(True for _ in backbone.fusion.parameters()):
                raise ValueError(
                    f"{type(backbone.fusion).__name__} has parameters that learn from the heads: "
                    "expected another fusion, such as cropr_mm.LastLayerFusion"
                )

    def before_train(self, runner: Runner) -> None:
        """Check and freeze; a model under data parallelism was frozen when it was built."""
        self.check(runner.model)
        free = [n for n, p in runner.model.named_parameters() if p.requires_grad]
        if is_model_wrapper(runner.model) and any(".reducers." not in f".{n}" for n in free):
            raise ValueError(
                "expected a model that freeze_all_but_routers froze before it was wrapped, got "
                f"{len(free)} trainable parameters"
            )
        freeze_all_but_routers(runner.model)
        self._set_share(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Set the modes, which the train loop sets too."""
        set_modes(runner.model)

    def before_val(self, runner: Runner) -> None:
        """Set the full reduction, unless another hook decides."""
        if self.progress is not None:
            set_share(runner, 1.0)

    def after_val(self, runner: Runner) -> None:
        """Set the share of training again."""
        self._set_share(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Say that only the routers learned."""
        checkpoint[STATE] = dict(progress=self.progress)

    def _set_share(self, runner: Runner) -> None:
        if self.progress is not None:
            set_share(runner, self.progress)


def freeze_all_but_routers(model: nn.Module) -> None:
    """Let the parameters of reducers learn, and no others."""
    model.requires_grad_(False)
    for backbone in find_backbones(model).values():
        backbone.reducers.requires_grad_(True)


def set_modes(model: nn.Module) -> None:
    """Training mode for the model as a whole and for reducers, evaluation mode for all else."""
    model.eval()
    for backbone in find_backbones(model).values():
        backbone.reducers.train()
    model.training = True
    while is_model_wrapper(model):  # losses are collected where the model itself trains
        model = model.module
        model.training = True
