"""The table of methods is complete and the one in the documents."""

from pathlib import Path

import pytest
from mmengine.config import Config

from cropr_mm.analysis.fusions import fusion_costs
from cropr_mm.analysis.methods import method_table, registered_methods
from cropr_mm.reducers import SoftMerger, TokenMerger, TokenPruner, TokenRanker, TokenReducer

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs/methods.md"


def test_every_method_has_a_row() -> None:
    bases = {SoftMerger, TokenMerger, TokenPruner, TokenRanker, TokenReducer}
    rows = method_table().splitlines()[2:]
    names = [row.split("`")[1] for row in rows]
    assert names == [method.__name__ for method in registered_methods()]
    assert len(names) >= 14
    assert not bases & set(registered_methods())


def test_the_documents_show_the_table_as_it_is_made() -> None:
    assert method_table() in DOC.read_text()


def test_fusions_cost_what_the_documents_say() -> None:
    cfg = Config.fromfile(ROOT / "configs/cropr_eva02_segmenter_ade20k.py")
    lines = DOC.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| fusion |"))
    costs = fusion_costs(cfg)
    for (title, cost), line in zip(costs.items(), lines[start + 2 :], strict=False):
        name, gmac, published_gmac, millions, published_millions = line.strip("| ").split(" | ")
        assert name == title
        assert float(gmac) == pytest.approx(cost.macs_linear / 1e9, abs=0.05)
        assert float(millions) == pytest.approx(cost.parameters / 1e6, abs=0.05)
        assert float(gmac) == pytest.approx(float(published_gmac), abs=0.6)
        assert float(millions) == pytest.approx(float(published_millions), abs=0.6)
    assert lines[start + 2 + len(costs)] == "", "no row more"


def test_only_pruned_configs_with_a_fusion_have_one_to_replace() -> None:
    cfg = Config.fromfile(ROOT / "configs/unpruned_eva02_segmenter_ade20k.py")
    with pytest.raises(ValueError, match="CroprViT with a fusion to replace"):
        fusion_costs(cfg)
    cfg = Config.fromfile(ROOT / "configs/cropr_tiny_vit_trashnet.py")
    assert not any("DToP" in title for title in fusion_costs(cfg)), "for segmenters only"


def test_the_config_is_left_as_it_was() -> None:
    cfg = Config.fromfile(ROOT / "configs/cropr_tiny_segmenter_camvid.py")
    before = cfg.pretty_text
    assert len(fusion_costs(cfg)) == 7
    assert cfg.pretty_text == before
