"""Keep a part of a model frozen at first, and train it from then on."""

import warnings

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from cropr_mm.backbones.find import find_backbones
from cropr_mm.checkpoints.new_parts import NEW_MODULES
from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class ThawHook(Hook):
    """Freezes a part of the model for the first epochs or iterations of a training.

    A frozen part has no gradients and is in evaluation mode, so nothing drops out and no statistics
    change. Reducers and fusion of an encoder are new and learn from the start. The optimizer holds
    all parameters from the start and passes over those without a gradient: frozen ones are not
    decayed and have no moments yet. What is frozen follows from the epoch or iteration alone, so a
    training that is resumed goes on exactly.

    DistributedDataParallel waits for the gradient of every parameter that it found trainable, so
    it needs ``find_unused_parameters=True`` in the config; static graphs and FSDP are refused.

    Args:
        end: Epochs or iterations before the part thaws, at least 1.
        part: Path of the module in the model.
        by_epoch: Whether to count epochs or iterations; loops of iterations need the latter.

    Raises:
        ValueError: If ``end`` is no whole number from 1 on; before training, if the part is not
            there or has nothing to train, or the train loop or the wrapper does not fit.
    """

    priority = "LOW"

    def __init__(self, end: int, part: str = "backbone", by_epoch: bool = True) -> None:
        if type(end) is not int or end < 1:
            raise ValueError(f"ThawHook expects a whole number of at least 1 as end, got {end!r}")
        self.end = end
        self.part = part
        self.by_epoch = by_epoch
        self._frozen: list[nn.Parameter] = []

    def check(self, model: nn.Module) -> None:
        """Whether a model has such a part, with parameters to freeze.

        Args:
            model: Unwrapped model.

        Raises:
            ValueError: If not.
        """
        names = dict(model.named_modules())
        if self.part not in names:
            children = ", ".join(name for name, _ in model.named_children())
            raise ValueError(
                f"ThawHook expects part to be a module of {type(model).__name__} ({children}, or "
                f"one inside), got {self.part!r}"
            )
        if not pretrained_parameters(names[self.part]):
            raise ValueError(
                f"ThawHook expects trainable parameters in {self.part!r}, got none: it is frozen "
                "for good (frozen_stages), or all of it is new"
            )

    def before_train(self, runner: Runner) -> None:
        """Check, and freeze if the time has not come."""
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                "ThawHook(by_epoch=True) expects a train loop of epochs, got "
                f"{type(runner.train_loop).__name__}; set by_epoch=False"
            )
        if is_model_wrapper(runner.model):
            check_wrapper(runner.model)
        self.check(unwrapped(runner.model))
        length = runner.max_epochs if self.by_epoch else runner.max_iters
        if self.end >= length:
            warnings.warn(
                f"ThawHook: {self.part} never thaws: expected end below {length}, the "
                f"{'epochs' if self.by_epoch else 'iterations'} of the training, got {self.end}",
                stacklevel=2,
            )
        if self._is_early(runner):
            self._frozen = pretrained_parameters(self._module(runner))
            for parameter in self._frozen:
                parameter.requires_grad_(False)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Keep the mode of a frozen part, which the train loop sets too; thaw it in time."""
        if not self._frozen:
            return
        if self._is_early(runner):
            module = self._module(runner)
            module.eval()
            for new in new_parts(module):
                new.train()
        else:
            self._thaw(runner)

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was before training."""
        self._thaw(runner)

    def _is_early(self, runner: Runner) -> bool:
        return (runner.epoch if self.by_epoch else runner.iter) < self.end

    def _module(self, runner: Runner) -> nn.Module:
        return unwrapped(runner.model).get_submodule(self.part)

    def _thaw(self, runner: Runner) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        if self._frozen:
            self._module(runner).train()
        self._frozen = []


def pretrained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Trainable parameters of a module but those of :func:`new_parts`."""
    new = {p for part in new_parts(module) for p in part.parameters()}
    return [p for p in module.parameters() if p.requires_grad and p not in new]


def new_parts(module: nn.Module) -> list[nn.Module]:
    """Reducers, fusion and mask queries of every encoder in a module."""
    backbones = find_backbones(module).values()
    parts = [getattr(backbone, name, None) for backbone in backbones for name in NEW_MODULES]
    return [part for part in parts if isinstance(part, nn.Module)]


def check_wrapper(model: nn.Module) -> None:
    """Raise ValueError for a wrapper that does not bear parameters without a gradient."""
    bears = getattr(model, "find_unused_parameters", False)
    if not bears or getattr(model, "static_graph", False):
        raise ValueError(
            "ThawHook leaves parameters without a gradient: expected DistributedDataParallel with "
            f"find_unused_parameters=True and no static graph, got {type(model).__name__} with "
            f"find_unused_parameters={bears}; set find_unused_parameters=True in the config"
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without wrappers of data parallelism."""
    while is_model_wrapper(model):
        model = model.module
    return model
