"""A choice of tokens by the ground truth: what it is worth, and how it reaches the encoder."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.registry import MODELS as HOST_MODELS
from mmengine.registry import init_default_scope

from cropr_mm.engine.preflight import SetupError
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.runs import Run, make_config

pytest.importorskip("mmseg")


@pytest.fixture(scope="module")
def oracle() -> Iterator[ModuleType]:
    """The module; what it registers is of no other test."""
    from experiments import oracle

    yield oracle
    for name in ("RareFirst", "BordersFirst"):
        MODELS.module_dict.pop(name)
    HOST_MODELS.module_dict.pop("InformedSegmenter")


LABELS = torch.zeros(4, 8, dtype=torch.long)  # 2 x 4 cells of 2 x 2 pixels
LABELS[:2, :2] = 1  # all of its class in the first cell
LABELS[2:, 6:] = 2
LABELS[2, 4] = 2  # a fifth of its class in a cell that is mixed
LABELS[:2, 6:] = 255


@pytest.mark.parametrize(
    ("name", "kept"),
    [("RareFirst", [0, 6, 7]), ("BordersFirst", [0, 6, 7])],
)
def test_cells_with_what_covers_little_stay(name: str, kept: list[int], oracle: ModuleType) -> None:
    reducer = MODELS.get(name)(embed_dim=8, num_classes=3)
    index = torch.arange(8).flip(0)[None]
    tokens = Tokens(torch.randn(1, 8, 8), index, grid=(2, 4))
    known = oracle._LABELS.set([LABELS])
    try:
        found = reducer(tokens, 3, Signals()).kept
    finally:
        oracle._LABELS.reset(known)
    assert sorted(found.index[0].tolist()) == kept


def test_a_border_is_worth_more_than_a_small_class(oracle: ModuleType) -> None:
    shares = oracle.cell_shares(LABELS, (2, 4), 3)[None]
    borders = oracle.BordersFirst(8, 3).worth(shares)
    assert borders.flatten().argmax() == 6
    assert oracle.RareFirst(8, 3).worth(shares).flatten().argmax() == 0
    assert shares[0, :, 0, 3].tolist() == [0, 0, 0], "without a class"
    assert oracle.RareFirst(8, 3).worth(shares).sum() == pytest.approx(3.0), "1 for each class"


def test_every_pass_of_the_segmenter_sees_the_labels_of_its_images(
    oracle: ModuleType, tmp_path: Path
) -> None:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    run = Run("digits_seg", 0, "oracle", tmp_path)
    cfg = make_config(run, BENCHMARK_TASKS["digits_seg"], Path("dense.pth"))
    init_default_scope("mmseg")
    model = HOST_MODELS.build(cfg.model)
    assert type(model) is oracle.InformedSegmenter
    labels = torch.zeros(1, 128, 128, dtype=torch.long)
    labels[0, :32, :32] = 3  # 16 of 256 cells; 34 stay
    sample = SegDataSample(
        metainfo=dict(img_shape=(128, 128), ori_shape=(128, 128)),
        gt_sem_seg=PixelData(data=labels),
    )
    seen = []
    last = list(model.backbone.reducers)[-1]
    model.backbone.reducers[last].register_forward_hook(lambda _, __, out: seen.append(out[0]))
    image = torch.randn(1, 3, 128, 128)
    model.train()(image, [sample], mode="loss")
    model.eval()(image, [sample], mode="predict")
    expected = {row * 16 + column for row in range(4) for column in range(4)}
    for kept in seen:
        assert expected <= set(kept.index[0].tolist())
    assert len(seen) == 2
    assert oracle._LABELS.get() == ()


def test_an_oracle_needs_label_maps(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="an oracle reads label maps"):
        make_config(
            Run("trashnet", 0, "oracle", tmp_path), BENCHMARK_TASKS["trashnet"], Path("dense.pth")
        )
