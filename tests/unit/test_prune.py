"""A dense backbone's config becomes a pruned one that builds, runs and keeps what was asked for."""

from typing import Any

import pytest
import torch
from mmengine.config import Config
from shipped_configs import config_file

from cropr_mm import CroprCvT, CroprPVT, CroprViT, prune
from cropr_mm.pruning import with_signal
from cropr_mm.registry import MODELS

TINY = dict(embed_dim=48, depth=6, num_heads=3, patch_size=16, img_size=96)
GLOBAL = dict(type="cropr_mm.CroprViT", arch=TINY)
WINDOWS = dict(
    type="cropr_mm.CroprViT",
    arch=dict(TINY, cls_token=False),
    img_size=128,
    window_size=2,
    global_block_indexes=[2, 5],
)
PVT = dict(type=CroprPVT, arch="pvt_v2_b0", img_size=256)
CVT = dict(type=CroprCvT, arch="cvt_13", img_size=256)


def share_left(cfg: dict[str, Any]) -> float:
    backbone = MODELS.build(cfg)
    return min(backbone.num_keep().values()) / (backbone.grid[0] * backbone.grid[1])


@pytest.mark.parametrize("pruned", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("dense", [GLOBAL, PVT, CVT], ids=["vit", "pvt", "cvt"])
def test_as_many_tokens_leave_as_asked_for(dense: dict, pruned: float) -> None:
    # Whole tokens: a step rounds down by less than one of at least 36.
    left = share_left(prune(dense, pruned, num_classes=3))
    assert 1 - pruned - 0.05 < left <= 1 - pruned + 1e-9


@pytest.mark.parametrize("pruned", [0.25, 0.5, 0.9])
def test_windows_leave_as_a_whole(pruned: float) -> None:
    cfg = prune(WINDOWS, pruned, num_classes=3)
    counts = list(cfg["schedule"]["num_keep"].values())
    assert all(count % 4 == 0 for count in counts)
    assert min(counts) / 64 == pytest.approx(1 - pruned, abs=1 / 16)
    MODELS.build(cfg).eval()(torch.randn(1, 3, 128, 128))


def test_attention_is_the_mean_where_there_is_no_class_token() -> None:
    reducer = dict(type="cropr_mm.ATS")
    with_token, without = (MODELS.build(cfg) for cfg in (GLOBAL, WINDOWS))
    assert with_signal(reducer, with_token) == reducer
    assert with_signal(reducer, without) == dict(reducer, signal="column_mean")
    chosen = dict(reducer, signal="rows")
    assert with_signal(chosen, without) == chosen, "what the user says stays"
    assert with_signal(dict(type="cropr_mm.RandomPruner"), without) == dict(
        type="cropr_mm.RandomPruner"
    )


def test_other_image_sizes_work_and_maps_are_whole() -> None:
    model = MODELS.build(prune(GLOBAL, 0.7, num_classes=3)).eval()
    for side in (64, 96, 160):
        (cells,) = model(torch.randn(1, 3, side, side))
        assert cells.shape == (1, 48, side // 16, side // 16)


def test_the_dense_config_stays_and_another_method_is_taken() -> None:
    before = dict(GLOBAL)
    cfg = prune(GLOBAL, 0.5, reducer=dict(type="cropr_mm.NonSalient"))
    assert before == GLOBAL
    assert cfg["reducer"] == dict(type="cropr_mm.NonSalient")
    assert isinstance(MODELS.build(cfg), CroprViT)


def test_the_steps_are_printed(capsys: pytest.CaptureFixture) -> None:
    cfg = prune(WINDOWS, 0.75, num_classes=3)
    ((block, count),) = cfg["schedule"]["num_keep"].items()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("64 patch tokens")
    assert lines[-1].split() == [str(block + 1), str(count), "75.0%"]


def test_the_flagship_config_is_pruned_in_whole_windows() -> None:
    dense = Config.fromfile(config_file("unpruned_eva02_cascade_coco")).model.backbone.to_dict()
    counts = prune(dense, 0.97, num_classes=80)["schedule"]["num_keep"]
    assert list(counts) == [1, 4, 7, 10, 13, 16, 19]
    assert counts[19] == 256


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        (GLOBAL, dict(pruned=1.0, num_classes=3), r"in \(0, 1\).*got 1.0"),
        (GLOBAL, dict(pruned=0.5), "num_classes"),
        (dict(GLOBAL, reducer=dict(type="cropr_mm.Cropr")), dict(num_classes=3), "without reducer"),
        (dict(GLOBAL, type="CroprViT"), dict(num_classes=3), "prefix of its package.*'CroprViT'"),
        (GLOBAL, dict(reducer=dict(type="ToMe")), "prefix of its package.*'ToMe'"),
        (dict(arch=TINY), dict(num_classes=3), "prefix of its package.*None"),
        (dict(type=torch.nn.Linear), dict(num_classes=3), "that can reduce tokens"),
        (dict(WINDOWS, global_block_indexes=[0]), dict(num_classes=3), "global_block_indexes"),
        (GLOBAL, dict(pruned=0.99, num_classes=3), "expected to keep"),
        (dict(WINDOWS, window_size=8), dict(num_classes=3), "expected a larger share, got 0.5"),
    ],
)
def test_bad_input_is_named(backbone: dict, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(backbone, **arguments)
