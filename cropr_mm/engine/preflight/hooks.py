"""Checks of the hooks that train and schedule token reduction."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from cropr_mm.backbones.find import auxiliary_reducers, find_backbones
from cropr_mm.engine.preflight.errors import SetupError, as_setup_error
from cropr_mm.engine.preflight.mask_queries import check_annealing
from cropr_mm.hooks.aux_loss_hook import CroprAuxLossHook
from cropr_mm.hooks.curriculum_hook import CroprCurriculumHook
from cropr_mm.hooks.elastic_hook import CroprElasticHook
from cropr_mm.hooks.mask_annealing_hook import MaskAnnealingHook
from cropr_mm.hooks.router_hook import CroprRouterHook
from cropr_mm.hooks.thaw_hook import ThawHook
from cropr_mm.messages import some
from cropr_mm.targets import AuxiliaryTarget

_CHECKING = (CroprCurriculumHook, CroprElasticHook, CroprRouterHook, MaskAnnealingHook, ThawHook)


def check_hooks(model: nn.Module, hooks: Sequence[Hook]) -> None:
    """Check the hooks of a training against its model.

    Args:
        model: Unwrapped model.
        hooks: All hooks of the runner.

    Raises:
        SetupError: If reducers have losses of their own and no CroprAuxLossHook adds them, there
            are two hooks of one kind, or two that exclude each other, or the model is none for a
            hook.
    """
    for kind in (
        CroprAuxLossHook,
        CroprCurriculumHook,
        CroprElasticHook,
        CroprRouterHook,
        MaskAnnealingHook,
    ):
        number = sum(isinstance(hook, kind) for hook in hooks)
        if number > 1:
            raise SetupError(
                f"expected one {kind.__name__} in custom_hooks, got {number}; a list in a config "
                "replaces that of its base as a whole, so leave out the base's: "
                "[hook for hook in _base_.custom_hooks if hook.type != "
                f"'cropr_mm.{kind.__name__}']"
            )
    deciding = [type(hook).__name__ for hook in hooks if _sets_progress(hook)]
    if len(deciding) > 1:
        raise SetupError(
            f"{' and '.join(deciding)} both say how much is pruned in training: expected one of "
            "them in custom_hooks; CroprRouterHook(progress=None) leaves it to the other"
        )
    kinds = {type(hook) for hook in hooks}
    if {CroprRouterHook, ThawHook} <= kinds:
        raise SetupError(
            "CroprRouterHook and ThawHook both say what is frozen: expected one of them in "
            "custom_hooks"
        )
    _check_trained(model, hooks)
    check_annealing(model, hooks)
    for hook in hooks:
        if isinstance(hook, _CHECKING):
            with as_setup_error():
                hook.check(model)


def check_steps(runner: Runner) -> None:
    """Check what counts steps against loop and optimizer wrapper of a training.

    Args:
        runner: Runner with its train loop.

    Raises:
        SetupError: If a curriculum or elastic training does not fit them.
    """
    for hook in runner.hooks:
        if isinstance(hook, CroprCurriculumHook | CroprElasticHook):
            with as_setup_error():
                hook.check_steps(runner)


def check_best(hooks: Sequence[Hook], metrics: Sequence[Any]) -> None:
    """The best checkpoint, and an early end, are chosen by a metric that there is.

    Args:
        hooks: All hooks of the runner.
        metrics: Built metrics of validation; their prefixes are compared, and the names of boxes
            and masks of COCO.

    Raises:
        SetupError: If ``save_best``, with which the first validation would end, or ``monitor``,
            which would be passed over, names none.
    """
    prefixes = [metric.prefix for metric in metrics]
    coco = [metric.prefix for metric in metrics if hasattr(metric, "iou_thrs")]
    for hook in hooks:
        # mmengine's CheckpointHook has the one, EarlyStoppingHook the other.
        option = "save_best" if hasattr(hook, "key_indicators") else "monitor"
        names = getattr(hook, "key_indicators", None) or [getattr(hook, "monitor", None) or "auto"]
        for name in names:
            prefix, _, rest = name.rpartition("/")
            unknown = prefix in coco and "map" in name.lower() and "mAP" not in rest
            if name != "auto" and ((prefix or None) not in prefixes or unknown):
                examples = [f"{p}/bbox_mAP" if p in coco else f"{p}/..." for p in prefixes if p]
                raise SetupError(
                    f"{option} of {type(hook).__name__} expects a metric of val_evaluator, such "
                    f"as {some([*examples, 'mIoU'] if None in prefixes else examples)}, got "
                    f"{name!r}"
                )


def check_targets(
    model: nn.Module, hooks: Sequence[Hook], dataset: Any
) -> dict[str, AuxiliaryTarget]:
    """Check what auxiliary modules learn against the model and the training data.

    Args:
        model: Unwrapped model.
        hooks: All hooks of the runner.
        dataset: Training data set.

    Returns:
        Targets, by the name for messages.

    Raises:
        SetupError: If the model has no auxiliary modules, or classes or queries differ.
    """
    targets = {}
    for hook in hooks:
        if isinstance(hook, CroprAuxLossHook):
            with as_setup_error():
                target = hook.make_target(model, dataset)
            targets[f"{type(target).__name__} of {type(hook).__name__}"] = target
    return targets


def _sets_progress(hook: Hook) -> bool:
    """Whether it decides which share of the reduction is in force in training."""
    if isinstance(hook, CroprRouterHook):
        return hook.progress is not None
    return isinstance(hook, CroprCurriculumHook | CroprElasticHook)


def _check_trained(model: nn.Module, hooks: Sequence[Hook]) -> None:
    """Reducers with losses of their own have a hook for them."""
    untrained = {
        type(reducer).__name__
        for backbone in find_backbones(model).values()
        for reducer in auxiliary_reducers(backbone).values()
    }
    if untrained and not any(isinstance(hook, CroprAuxLossHook) for hook in hooks):
        raise SetupError(
            f"the model has {', '.join(sorted(untrained))} modules that nothing trains; expected "
            "in custom_hooks a dict(type='cropr_mm.CroprAuxLossHook', target=...)"
        )
