"""How much padding a trained model keeps, and what dropping it first does to its metrics."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner

from cropr_mm.checkpoints import safe_load
from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.inspection.recorder import PruningRecorder
from cropr_mm.ops.padding import is_padding
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.runs import Run
from experiments.scores import TASKS
from experiments.stored_runs import check_run_drops


@torch.no_grad()
def padding_kept(run: Run, pad_first: bool) -> dict[str, float]:
    """Test one trained model with or without ``pad_first``.

    Args:
        run: A pruned model.
        pad_first: Whether patches of padding leave first.

    Returns:
        'padding': percent of the survivors of the last step that are padding; and each metric of
        the task, in percent.

    Raises:
        SetupError: If its method merges tokens.
    """
    options = {"model.backbone.pad_first": pad_first}
    task = TASKS[BENCHMARK_TASKS[run.benchmark].task]
    cfg = load_config(str(run.config), options=options)
    model = MODELS.build(cfg.model).eval()
    check_run_drops(run, model.backbone)
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(str(run.config), folder, options=options)
        task.record(cfg, Path(folder))
        evaluate(cfg, str(run.checkpoint))
        scores = task.read(cfg, Path(folder))
        metrics = scores(np.arange(scores.num_images))
    model.load_state_dict(safe_load(run.checkpoint)["state_dict"])
    torch.manual_seed(run.seed)  # the random pruner draws
    survivors = padding = 0
    for batch in Runner.build_dataloader(cfg.test_dataloader):
        images = model.data_preprocessor(batch)["inputs"]
        with PruningRecorder(model.backbone) as recorder:
            model.backbone(images)
        alive = recorder.maps().flatten(1) < 0
        survivors += int(alive.sum())
        padding += int((alive & is_padding(images, model.backbone.patch_size)).sum())
    return {"padding": 100 * padding / survivors, **metrics}
