"""Which GPU a recipe fits, and what of its encoder trains."""

from pathlib import Path

import pytest
from allocator import allocated_peak
from mmengine.config import Config

from cropr_mm.profiling.run_mode import Mode
from experiments.recipe_memory import (
    dense_twin,
    first_progress,
    recipes,
    set_way,
    smallest_card,
    step_memory,
    table,
)
from experiments.whole_model import whole_model

ROOT = Path(__file__).parents[2]
SEGMENTER = ROOT / "configs/demo/cropr_tiny_segmenter_digits.py"


@pytest.mark.parametrize(
    ("gib", "card"), [(1, "24"), (21.5, "24"), (21.7, "48"), (43.3, "80"), (72, "80"), (72.1, "-")]
)
def test_a_tenth_of_a_card_is_left(gib: float, card: str) -> None:
    assert smallest_card(int(gib * 2**30)) == card


def test_recipes_have_a_dense_twin() -> None:
    found = recipes()
    assert len(found) > 30
    assert all(dense_twin(path).exists() for path in found)


def test_a_frozen_encoder_trains_reducers_and_head_alone() -> None:
    cfg = Config.fromfile(SEGMENTER)
    set_way(cfg, "frozen")
    model = whole_model(cfg, "cropr")
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(n.startswith(("backbone.reducers.", "backbone.norm.", "decode_")) for n in trained)


def test_adapters_of_a_recipe_train_in_less_memory() -> None:
    pytest.importorskip("peft")
    full, lora = Config.fromfile(SEGMENTER), Config.fromfile(SEGMENTER)
    set_way(lora, "lora")
    needs = [step_memory(cfg, "dense", 1, Mode(), 1) for cfg in (full, lora)]
    assert needs[1].weights > needs[0].weights
    assert needs[1].optimizer < 0.3 * needs[0].optimizer
    assert needs[1].training < needs[0].training


def test_pruning_that_begins_at_nothing_is_estimated_there() -> None:
    cfg = Config.fromfile(SEGMENTER)
    assert first_progress(cfg) == 1.0
    pruned = step_memory(cfg, "cropr", 2, Mode(), 1)
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type="cropr_mm.CroprCurriculumHook")]
    assert first_progress(cfg) == 0.0
    assert step_memory(cfg, "cropr", 2, Mode(), 1).training > pruned.training


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["dense", "cropr"])
def test_a_recipe_needs_what_the_allocator_gives_out(encoder: str) -> None:
    cfg = Config.fromfile(ROOT / "configs/segmentation/cropr_dinov2s_segmenter_camvid.py")
    estimate = step_memory(cfg, encoder, 1, Mode(), 1).training
    allocated = step_memory(cfg, encoder, 1, Mode(), 1, allocated_peak).training
    print(f"{estimate / allocated:.3f} of {allocated / 2**20:.0f} MiB")
    assert estimate == pytest.approx(allocated, rel=0.02)


def test_the_table_has_a_row_for_each_recipe_and_batch() -> None:
    row = dict(config="a.py", size=(64, 32), weights=2**30, optimizer=2**31, training=2**30)
    rows = [
        row | dict(batch=1, encoder="dense", trains="full"),
        row | dict(batch=1, encoder="cropr", trains="full", training=60 * 2**30),
        row | dict(batch=2, encoder="dense", trains="full", weights=100 * 2**30),
    ]
    assert table(rows) == [
        ["config", "image, px", "images", "dense, full", "cropr, full"],
        ["a.py", "64x32", "1", "4.0 (24)", "63.0 (80)"],
        ["a.py", "64x32", "2", "103.0 (-)", ""],
    ]
