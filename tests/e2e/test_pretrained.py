"""The configs that start from a pretrained encoder, on real photos."""

import math
import os
from pathlib import Path

import pytest
from mmengine.config import Config
from shipped_configs import config_file

from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.engine.train import train

NEEDED = {
    "CROPR_DATA_ROOT": ("camvid", "trashnet"),
    "CROPR_WEIGHTS_ROOT": ("vit_small_patch14_dinov2_saliency.safetensors",),
}
MISSING = [
    f"{name} in {variable}, which is {os.environ.get(variable) or 'not set'}"
    for variable, names in NEEDED.items()
    for name in names
    if not (os.environ.get(variable) and Path(os.environ[variable], name).exists())
]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {'; '.join(MISSING)}")


@pytest.mark.parametrize(
    ("name", "metric"),
    [("cropr_dinov2s_segmenter_camvid", "mIoU"), ("cropr_dinov2s_trashnet", "accuracy/top1")],
)
def test_trains_from_its_weights_and_tests(
    name: str, metric: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    pytest.importorskip("mmseg" if metric == "mIoU" else "mmpretrain")
    train(shortened(name, tmp_path))
    said = "".join(capfd.readouterr())
    assert "vit_small_patch14_dinov2_saliency.safetensors" in said
    metrics = evaluate(shortened(name, tmp_path), str(tmp_path / "iter_1.pth"))
    assert math.isfinite(metrics[metric])


def shortened(name: str, work_dir: Path) -> Config:
    """The config as it is, with one iteration of two photos and two photos to test."""
    cfg = load_config(str(config_file(name)), str(work_dir))
    cfg.train_cfg.max_iters = 1
    cfg.train_dataloader.batch_size = 2
    cfg.test_dataloader.dataset.indices = 2
    for key in ("val_dataloader", "val_evaluator", "val_cfg"):
        cfg[key] = None
    return cfg
