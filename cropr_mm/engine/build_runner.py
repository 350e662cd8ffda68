"""Build the runner of a config once everything that can be checked before has been checked."""

import traceback
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.dist import is_main_process

from cropr_mm.engine.config import HOST_SCOPES
from cropr_mm.engine.console import import_quietly, print_files
from cropr_mm.engine.distributed import join_processes_on_cpu
from cropr_mm.engine.preflight import (
    SetupError,
    check_channels,
    check_classes,
    check_data,
    check_evaluator,
    check_label_maps,
    check_labels,
    check_length,
    check_model_config,
    loading,
)
from cropr_mm.engine.runner import ToolRunner, unwrapped_model


def build_runner(cfg: Config, splits: tuple[str, ...]) -> ToolRunner:
    """Runner with its loops built and all checks passed."""
    if cfg.get("default_scope") in HOST_SCOPES:
        import_quietly(f"{cfg.default_scope}.datasets")
    check_model_config(cfg.model)
    check_data(cfg, splits)
    join_processes_on_cpu(cfg)
    try:
        runner = ToolRunner.from_cfg(cfg)
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        text = str(text) or f"the condition '{place.line}' does not hold"
        raise SetupError(f"{text} (raised in {place.filename}:{place.lineno})") from error
    check_channels(unwrapped_model(runner))
    for split in splits:
        with loading(cfg, split):
            loop = getattr(runner, f"{split}_loop")
        if loop is not None:
            check_length(loop.dataloader.dataset, cfg, split)
            check_classes(runner.model, loop.dataloader.dataset, f"{split}_dataloader")
            check_labels(loop.dataloader.dataset, f"{split}_dataloader")
            check_label_maps(loop.dataloader.dataset, f"{split}_dataloader")
            if split != "train":
                check_evaluator(loop.evaluator, loop.dataloader.dataset, f"{split}_evaluator")
    return runner


def print_outputs(runner: ToolRunner, done: str, files: Mapping[str, object]) -> None:
    """Print on the main process where the outputs of a run are."""
    if is_main_process():
        log = f"{runner.log_dir}/{runner.timestamp}.log"
        print_files(done, {"work dir": runner.work_dir, **files, "log": log})
