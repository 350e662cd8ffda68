"""Smaller test images for trained models."""

from pathlib import Path

import pytest
from mmengine.registry import init_default_scope

from cropr_mm.engine.preflight import SetupError
from cropr_mm.registry import MODELS
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.image_sizes import resize
from experiments.runs import Run, make_config


@pytest.mark.parametrize(
    ("name", "scale", "size", "kept"),
    [
        ("camvid", 0.6, (144, 192), 108 - 8 * 12),  # 32 of 300 in each of 8 steps: 11.52 of 108
        ("digits_seg", 0.75, (96, 96), 144 - 6 * 21),  # 37 of 256 in each of 6 steps: 20.8 of 144
        ("trashnet", 0.5, (96, 128), 48 - 6 * 7),  # 28 of 192
    ],
)
def test_size_and_rate_change_together(
    name: str, scale: float, size: tuple[int, int], kept: int, tmp_path: Path
) -> None:
    cfg = make_config(Run(name, 0, "cropr", tmp_path), BENCHMARK_TASKS[name], Path("dense.pth"))
    resize(cfg, scale)
    (transform,) = (t for t in cfg.test_dataloader.dataset.pipeline if t["type"] == "Resize")
    assert tuple(transform["scale"]) == size[::-1]
    if name == "camvid":  # others are not padded in tests
        assert tuple(cfg.model.data_preprocessor.test_cfg.size) == size
    init_default_scope(cfg.default_scope)
    backbone = MODELS.build(cfg.model.backbone)
    grid = backbone.patch_grid(size)
    assert backbone.img_size != size, "weights keep their shapes"
    assert min(backbone.tokens_per_block(grid)) - backbone.num_prefix == kept


def test_sizes_without_whole_patches_and_schedules_without_a_rate_are_refused(
    tmp_path: Path,
) -> None:
    cfg = make_config(
        Run("camvid", 0, "cropr", tmp_path), BENCHMARK_TASKS["camvid"], Path("dense.pth")
    )
    with pytest.raises(SetupError, match=r"patch size 16, got 0\.65: 156x208"):
        resize(cfg, 0.65)
    with pytest.raises(SetupError, match=r"a scale in \(0, 1\], got 1\.2"):
        resize(cfg, 1.2)
    cfg.model.backbone.schedule = dict(type="cropr_mm.ExplicitTokens", num_keep={3: 100})
    with pytest.raises(SetupError, match=r"a schedule with a rate, got cropr_mm\.ExplicitTokens"):
        resize(cfg, 0.6)
