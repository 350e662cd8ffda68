"""The first image goes through prediction and metrics before the work starts.

Pipelines of validation lack what predictions or metrics read (labels, 'scale_factor', 'img_id'), or
make images of sizes that the schedule does not take; both would show after a part of the training.
"""

import traceback
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from cropr_mm.engine.errors import message_of
from cropr_mm.engine.preflight import SetupError, check_pixels
from cropr_mm.engine.runner import unwrapped_model
from cropr_mm.hooks.random_state_hook import random_state, set_random_state

_PACKAGE = Path(__file__).parents[1]
_HOSTS = {"mmcv", "mmdet", "mmengine", "mmpretrain", "mmseg"}
_FAULTS = (LookupError, AttributeError, AssertionError, TypeError, ValueError, RuntimeError)


def check_first_image(runner: Runner, split: str) -> None:
    """Load, predict and score the first image of a split.

    Metrics forget it, and random numbers stay as they were.

    Args:
        runner: Runner with its loops built.
        split: 'val' or 'test'.

    Raises:
        SetupError: If the model's library or this package fails on it; errors of other code pass.
    """
    loop: Any = getattr(runner, f"{split}_loop")
    if not hasattr(loop, "evaluator"):  # none, or one of another kind
        return
    model, state = runner.model.eval(), random_state()
    try:
        with torch.no_grad(), autocast(enabled=loop.fp16):
            batch = loop.dataloader.collate_fn([loop.dataloader.dataset[0]])
            preprocessor = getattr(unwrapped_model(runner), "data_preprocessor", None)
            check_pixels(preprocessor, batch.get("inputs", ()), f"{split}_dataloader")
            outputs = getattr(model, f"{split}_step")(batch)
            loop.evaluator.process(data_samples=outputs, data_batch=batch)
    except SetupError:
        raise
    except _FAULTS as error:
        file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        message = f"{split}_dataloader: its first image cannot be predicted and scored: "
        if file.is_relative_to(_PACKAGE):
            raise SetupError(f"{message}{message_of(error)}") from error
        if _HOSTS.isdisjoint(file.parts):
            raise
        raise SetupError(
            f"{message}{type(error).__name__}: {message_of(error)}; expected a pipeline that loads "
            "and keeps (meta_keys) what the model and the metrics read"
        ) from error
    finally:
        for metric in loop.evaluator.metrics:
            metric.results.clear()
        set_random_state(state)
