"""The table of methods is complete and open to new ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.inspection.token_record import TokenRecorder
from cropr_mm.profiling.fusion_table import fusion_costs
from cropr_mm.profiling.method_table import method_table, registered_methods
from cropr_mm.reducers import (
    SoftMerger,
    TokenMerger,
    TokenPruner,
    TokenRanker,
    TokenReducer,
    VariancePruner,
)
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens
from cropr_mm.visualization.tokens import token_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def registry() -> Iterator[None]:
    """Forgets what a test registers."""
    before = dict(MODELS.module_dict)
    yield
    MODELS.module_dict.clear()
    MODELS.module_dict.update(before)


def rows() -> dict[str, list[str]]:
    """Cells behind the name of each method."""
    lines = [line.strip("| ").split(" | ") for line in method_table().splitlines()[2:]]
    return {line[0].strip("`"): line[1:] for line in lines}


def test_every_method_has_a_row() -> None:
    bases = {SoftMerger, TokenMerger, TokenPruner, TokenRanker, TokenReducer}
    assert list(rows()) == [method.__name__ for method in registered_methods()]
    assert len(rows()) >= 14
    assert not bases & set(registered_methods())


@torch.no_grad()
@pytest.mark.usefixtures("registry")
def test_a_new_method_has_a_row_and_runs_as_soon_as_it_is_registered() -> None:
    @MODELS.register_module()
    class LoudPixels(TokenPruner):
        needs = frozenset({"noise", "keys"})
        site = "between"

        def __init__(self, embed_dim: int, num_classes: int, power: float = 2.0) -> None:
            super().__init__(embed_dim)
            self.power = power
            self.head = torch.nn.Linear(embed_dim, num_classes)

        def score(self, tokens: Tokens, signals: Signals) -> Tensor:
            return tokens.patches.float().abs().pow(self.power).sum(dim=-1)

    assert rows()["LoudPixels"] == [
        "tokens, whole",
        "between attention and MLP",
        "keys, random numbers",
        "model's loss",
        "fusion, or as left",
        "yes",
        "yes",
        f"{384 * 150 + 150:,} (150 classes)".replace(",", " "),
    ]
    model = CroprViT(
        dict(embed_dim=8, depth=4, num_heads=2),
        img_size=32,
        patch_size=8,
        reducer=dict(type="cropr_mm.LoudPixels", num_classes=3),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 9, 1: 5}),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    ).eval()
    (features,) = model(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 8, 4, 4)
    assert model.tokens_per_block() == [17, 10, 6, 17]


@torch.no_grad()
@pytest.mark.usefixtures("registry")
def test_a_step_before_a_block_is_one_after_the_block_before_it() -> None:
    @MODELS.register_module()
    class EarlyVariance(VariancePruner):
        site = "before"

    assert rows()["EarlyVariance"][1] == "before a block"
    found = []
    for name, num_keep in (("VariancePruner", {0: 9, 2: 5}), ("EarlyVariance", {1: 9, 3: 5})):
        torch.manual_seed(0)
        model = CroprViT(
            dict(embed_dim=8, depth=6, num_heads=2),
            img_size=32,
            patch_size=8,
            reducer=dict(type=f"cropr_mm.{name}"),
            schedule=dict(type="cropr_mm.ExplicitTokens", num_keep=num_keep),
            fusion=dict(type="cropr_mm.LastLayerFusion"),
        ).eval()
        with TokenRecorder(model) as recorder:
            (features,) = model(torch.randn(2, 3, 32, 32))
        record = recorder.record()
        firsts = [step["first"] for step in token_data(model, record)["steps"]]
        found.append((features, model.tokens_per_block(), record.depths, firsts))
    (after, *said), (before, *said_before) = found
    assert torch.equal(after, before)
    assert said == said_before == [[17, 10, 10, 6, 6, 17], (1, 3), [1, 3]]


@pytest.mark.usefixtures("registry")
def test_a_method_that_the_table_cannot_build_does_not_hide_the_others() -> None:
    count = len(rows())

    @MODELS.register_module()
    class Demanding(TokenMerger):
        def __init__(self, embed_dim: int, taste: str) -> None:
            super().__init__(embed_dim)

    assert rows()["Demanding"] == ["needs taste", *["?"] * 7]
    assert len(rows()) == count + 1


def test_only_pruned_configs_with_a_fusion_have_one_to_replace() -> None:
    cfg = Config.fromfile(ROOT / "configs/segmentation/unpruned_eva02_segmenter_ade20k.py")
    with pytest.raises(ValueError, match="backbone with a fusion to replace"):
        fusion_costs(cfg)
    cfg = Config.fromfile(ROOT / "configs/classification/cropr_tiny_vit_trashnet.py")
    assert not any("DToP" in title for title in fusion_costs(cfg)), "for segmenters only"


def test_the_config_is_left_as_it_was() -> None:
    cfg = Config.fromfile(ROOT / "configs/segmentation/cropr_tiny_segmenter_camvid.py")
    before = cfg.pretty_text
    assert len(fusion_costs(cfg)) == 8
    assert cfg.pretty_text == before
