"""Hook that trains the auxiliary modules of token reducers."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener, check_target, named_reducers
from cropr_mm.hooks.distillation import Distillation
from cropr_mm.hooks.loss_listener import LossListener
from cropr_mm.registry import HOOKS
from cropr_mm.targets import AuxiliaryTarget, build_target


@HOOKS.register_module()
class CroprAuxLossHook(Hook):
    """Trains the Cropr modules of any mmengine model; without it they raise in training.

    From ``before_train`` to ``after_train`` the model returns one more loss per Cropr module for
    ``mode='loss'``: ``loss_cropr_b05`` for the module after block 5 (0-based, as in configs and in
    ``backbone.reducers``). Other methods with an auxiliary loss have ``loss_keep_b05`` (DynamicViT,
    dTPS), ``loss_exit_b05`` or ``loss_exit_mask_b05`` (DToP). Validation, testing and
    ``mode='predict'`` stay as they are. A copy of the model made before training starts (EMAHook's)
    is a plain model.

    Every module runs in every pass, also where its step keeps all tokens, so
    ``find_unused_parameters`` is not needed under data parallelism.

    Args:
        target: Config of an AuxiliaryTarget, e.g. ``dict(type='cropr_mm.MultiLabelTarget')``. Its
            ``num_classes`` and ``grid`` follow from data set and model, see :func:`build_target`.
        loss_weight: Factor of every auxiliary loss, positive. The losses reach the Cropr modules
            only, unless these have ``stop_gradient=False``; it scales their gradients.
        num_cells: For targets on a grid: cells per image that are learned in one iteration, drawn
            for each image anew. Losses and gradients are those of all cells on average, at
            ``num_cells`` / M of the cost. Default: all cells.
        teacher: Arguments of :class:`cropr_mm.hooks.distillation.Distillation`, for methods that
            also learn from a frozen dense model.

    Raises:
        ValueError: If ``loss_weight`` is not positive; before training, if the model has no Cropr
            module or another hook trains it, there are not so many cells, or classes or queries of
            target, modules and data set differ.
    """

    def __init__(
        self,
        target: dict,
        loss_weight: float = 1.0,
        num_cells: int | None = None,
        teacher: dict | None = None,
    ) -> None:
        if not loss_weight > 0:
            raise ValueError(f"loss_weight must be positive, got {loss_weight}")
        self.target = target
        self.loss_weight = loss_weight
        self.num_cells = num_cells
        self.distillation = None if teacher is None else Distillation(**teacher)
        self._listeners: list[LossListener] = []

    def before_train(self, runner: Runner) -> None:
        """Build the target and listen to the model."""
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        self.after_train(runner)
        target = self.make_target(model, runner.train_dataloader.dataset)
        if self.distillation is not None:  # a copy of the model, which has no listener yet
            self._listeners.append(self.distillation.listen(model))
        self._listeners.append(AuxiliaryListener(model, target, self.loss_weight, self.num_cells))

    def make_target(self, model: nn.Module, dataset: Any = None) -> AuxiliaryTarget:
        """Build the target for a model and its training data, and compare the three.

        Args:
            model: Unwrapped model.
            dataset: Training data set; its ``metainfo`` may name the classes.

        Raises:
            ValueError: If the model has no Cropr module, or classes, queries or cells differ.
        """
        reducers = named_reducers(model)
        target = build_target(self.target, model, dataset)
        target.check_dataset(dataset)
        check_target(target, reducers, self.num_cells)
        return target

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was before training."""
        for listener in self._listeners:
            listener.remove()
        self._listeners.clear()
