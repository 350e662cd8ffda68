"""Build the runner of a config once everything that can be checked before has been checked."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mmengine.config import Config
from mmengine.dist import is_main_process

from cropr_mm.engine.config import HOST_SCOPES
from cropr_mm.engine.console import import_quietly, print_files
from cropr_mm.engine.distributed import check_launcher, join_processes_on_cpu
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.preflight import (
    check_best,
    check_channels,
    check_class_folders,
    check_class_weights,
    check_classes,
    check_data,
    check_evaluator,
    check_files,
    check_hooks,
    check_ignored,
    check_label_maps,
    check_labels,
    check_length,
    check_levels,
    check_mask_queries,
    check_matching,
    check_mixing,
    check_model_config,
    check_same_classes,
    check_steps,
    check_targets,
    loading,
    warn_of_idle_rates,
)
from cropr_mm.engine.preflight.entries import (
    check_loops,
    check_optimizer,
    warn_of_idle_schedules,
)
from cropr_mm.engine.preflight.sample_errors import name_damaged_files
from cropr_mm.engine.runner import AnyRunner, unwrapped_model

R = TypeVar("R", bound=AnyRunner)


def build_runner(cfg: Config, splits: Sequence[str], runner_class: type[R]) -> R:
    """Runner with its loops built and all checks passed.

    Args:
        cfg: Config from :func:`cropr_mm.engine.config.load_config`.
        splits: Loops to build, of 'train', 'val' and 'test'.
        runner_class: What to build.

    Raises:
        SetupError: If model, hooks or data do not fit together.
    """
    if cfg.get("default_scope") in HOST_SCOPES:
        import_quietly(f"{cfg.default_scope}.datasets")
    check_model_config(cfg.model.get("module", cfg.model))  # of test-time augmentation
    check_loops(cfg, splits)
    if "train" in splits:
        check_optimizer(cfg.optim_wrapper)
        warn_of_idle_schedules(cfg)
    check_data(cfg, splits)
    check_class_folders(cfg, splits)
    check_launcher(cfg.launcher)
    join_processes_on_cpu(cfg)
    with building_errors():
        runner = runner_class.from_cfg(cfg)
    model = unwrapped_model(runner)
    check_channels(model)
    check_class_weights(model)
    check_levels(model)
    check_mask_queries(model)
    check_mixing(model)
    if "train" in splits:
        check_matching(model)
        check_hooks(model, runner.hooks)
        warn_of_idle_rates(model, cfg.optim_wrapper)
    built = {split: _build_loop(runner, split) for split in splits}
    if "train" in splits:
        check_steps(runner)
    if "train" in splits and runner.val_loop is not None:
        check_best(runner.hooks, runner.val_loop.evaluator.metrics)
    for split, dataset in built.items():
        check_same_classes(built.get("train"), dataset, f"{split}_dataloader")
    return runner


def _build_loop(runner: AnyRunner, split: str) -> Any:
    """Build the loop of one split, and compare its data with the model; returns the data set."""
    with building_errors(), loading(runner.cfg, split):
        loop = getattr(runner, f"{split}_loop")
    if loop is None:
        return None
    dataset, where = loop.dataloader.dataset, f"{split}_dataloader"
    check_length(loop.dataloader, runner.cfg, split)
    check_classes(unwrapped_model(runner), dataset, where)
    check_labels(dataset, where)
    check_files(dataset, where)
    labels = check_label_maps(dataset, where)
    if split == "train":
        model = unwrapped_model(runner)
        check_ignored(model, check_targets(model, runner.hooks, dataset), labels, where)
    else:
        check_evaluator(loop.evaluator, dataset, f"{split}_evaluator")
    name_damaged_files(dataset)
    return dataset


def print_outputs(runner: AnyRunner, done: str, files: Mapping[str, object]) -> None:
    """Print on the main process where the outputs of a run are."""
    if is_main_process():
        log = f"{runner.log_dir}/{runner.timestamp}.log"
        print_files(done, {"work dir": runner.work_dir, **files, "log": log})
