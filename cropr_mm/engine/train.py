"""Check, then train."""

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from cropr_mm.backbones.find import auxiliary_reducers, find_backbones
from cropr_mm.engine.build_runner import build_runner, print_outputs
from cropr_mm.engine.checkpoint_io import existing_checkpoint
from cropr_mm.engine.config import require_entries
from cropr_mm.engine.console import input_errors
from cropr_mm.engine.options import check_precision, disable_amp, enable_amp
from cropr_mm.engine.preflight import SetupError, check_masks
from cropr_mm.engine.runner import ToolRunner, unwrapped_model
from cropr_mm.hooks.aux_loss_hook import CroprAuxLossHook
from cropr_mm.hooks.curriculum_hook import CroprCurriculumHook


def train(cfg: Config, resume: str | None = None, amp: bool | None = None) -> None:
    """Check, then train.

    Args:
        cfg: Config from :func:`load_config`; changed in place.
        resume: Checkpoint to go on from, or 'auto' for the latest in the working folder.
        amp: Whether to train with automatic mixed precision; None leaves that to the config.

    Raises:
        SetupError: If config or data do not fit, before the first iteration.
    """
    require_entries(cfg, "train_dataloader", "train_cfg", "optim_wrapper")
    if amp is not None:
        (enable_amp if amp else disable_amp)(cfg)
    if resume == "auto":
        resume = find_latest_checkpoint(cfg.work_dir)
        if resume is None:
            print(f"Nothing to resume in {cfg.work_dir}: starting anew.")
    if resume is not None:
        cfg.load_from, cfg.resume = existing_checkpoint(resume), True
    if cfg.get("load_from"):
        existing_checkpoint(cfg.load_from)
    runner = build_runner(cfg, ("train", "val"))
    runner.strict = bool(cfg.get("resume"))
    _check_auxiliary(runner)
    _check_curriculum(runner)
    check_masks(unwrapped_model(runner), cfg)
    check_precision(cfg)
    with input_errors():
        runner.train()
    print_outputs(runner, "Trained", {"last checkpoint": find_latest_checkpoint(runner.work_dir)})


def _check_auxiliary(runner: ToolRunner) -> None:
    """Reducers with losses of their own have a hook for them that fits model and data."""
    model = unwrapped_model(runner)
    hooks = [hook for hook in runner.hooks if isinstance(hook, CroprAuxLossHook)]
    untaught = {
        type(reducer).__name__
        for backbone in find_backbones(model).values()
        for reducer in auxiliary_reducers(backbone).values()
    }
    if not hooks and untaught:
        raise SetupError(
            f"the model has {', '.join(sorted(untaught))} modules that nothing trains; expected in "
            "custom_hooks a dict(type='cropr_mm.CroprAuxLossHook', target=...)"
        )
    for hook in hooks:
        try:
            hook.check(model, runner.train_dataloader.dataset)
        except ValueError as error:
            raise SetupError(str(error)) from error


def _check_curriculum(runner: ToolRunner) -> None:
    """A curriculum has encoders that can reduce less than their schedules say."""
    for hook in runner.hooks:
        if isinstance(hook, CroprCurriculumHook):
            try:
                hook.check(unwrapped_model(runner))
            except ValueError as error:
                raise SetupError(str(error)) from error
