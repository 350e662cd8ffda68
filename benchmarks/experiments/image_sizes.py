"""Trained models tested on smaller images than they were trained on."""

import tempfile
from pathlib import Path

from mmengine.config import Config
from timm.layers import to_2tuple

from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.engine.preflight import SetupError
from cropr_mm.layers.arch import resolve_arch
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.runs import Run
from experiments.scores import TASKS, Scores


def scores_at(run: Run, scale: float) -> Scores:
    """Test one trained model on smaller images, pruning the same share of their patches.

    Args:
        run: A finished run.
        scale: Height and width of the images in multiples of those in training, at most 1.

    Raises:
        SetupError: If the size is larger, no multiple of the patch size, or the schedule has no
            rate.
    """
    task = TASKS[BENCHMARK_TASKS[run.benchmark].task]
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(str(run.config), folder)
        cfg.experiment_name = Path(folder).name  # or two runs of one second would share their logs
        if scale != 1:
            resize(cfg, scale)
        task.record(cfg, Path(folder))
        evaluate(cfg, str(run.checkpoint))
        return task.read(cfg, Path(folder))


def resize(cfg: Config, scale: float) -> None:
    """Change the size of test images and, with the number of patches, the rate of the schedule.

    The backbone keeps its native size, and with it the shapes of its weights; there the schedule
    has to work too, so images can only be smaller.
    """
    if not 0 < scale <= 1:
        raise SetupError(f"expected a scale in (0, 1], got {scale}")
    backbone = cfg.model.backbone
    arch = resolve_arch(backbone.arch)
    native = to_2tuple(backbone.get("img_size") or arch.img_size)
    side = backbone.get("patch_size") or arch.patch_size
    size = tuple(round(length * scale) for length in native)
    if any(length % side for length in size):
        raise SetupError(
            f"expected a scale that keeps {native[0]}x{native[1]} pixels multiples of the patch "
            f"size {side}, got {scale}: {size[0]}x{size[1]}"
        )
    pipeline = cfg.test_dataloader.dataset.pipeline
    transform = next((step for step in pipeline if step["type"] == "Resize"), None)
    if transform is None:  # pictures of the native size
        transform = dict(type="Resize", keep_ratio=True)
        pipeline.insert(1, transform)
    transform["scale"] = size[::-1]
    padded = cfg.model.get("data_preprocessor", {}).get("test_cfg")
    if padded is not None and "size" in padded:
        padded.size = size
    if backbone.get("schedule") is not None:
        patches = [height * width for height, width in (native, size)]
        if "rate" not in backbone.schedule:
            raise SetupError(f"expected a schedule with a rate, got {backbone.schedule.type}")
        backbone.schedule.rate = round(backbone.schedule.rate * patches[1] / patches[0])
