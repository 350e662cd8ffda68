"""What trains in each way of the comparison, and what it costs."""

from pathlib import Path

import pytest
from mmengine.config import Config

from cropr_mm.engine.preflight import SetupError
from experiments import compare_lora
from experiments.compare_lora import WAYS, cells, costs, mean_progress
from experiments.runs import Run

ROOT = Path(__file__).parents[2]


def config(way: str, iterations: int | None = 30) -> Config:
    run = Run("camvid_dinov2s", 1, "cropr", Path("runs") / way)
    return compare_lora._config(run, way, iterations)


def test_ways_differ_by_what_trains_and_where_it_starts() -> None:
    full, others = config("full"), {way: config(way) for way in WAYS if way != "full"}
    assert full.train_cfg.max_iters == full.param_scheduler[-1].end == 30
    assert "init_cfg" in full.model.backbone
    assert others["lora"].model.backbone.lora == dict(r=8)
    assert others["frozen"].model.backbone.frozen_stages == 12
    assert "init_cfg" not in others["random weights"].model.backbone
    for cfg in others.values():
        for key in ("lora", "frozen_stages"):
            cfg.model.backbone.pop(key, None)
        cfg.model.backbone.init_cfg = full.model.backbone.init_cfg
        cfg.test_evaluator.output_dir = full.test_evaluator.output_dir
    adapters = others.pop("lora")
    assert all(cfg.to_dict() == full.to_dict() for cfg in others.values())
    rates = adapters.optim_wrapper.paramwise_cfg.custom_keys
    assert not any("blocks" in name for name in rates), "adapters learn at the rate of the head"
    assert any("pos_embed" in name for name in rates)


def test_default_iterations_are_those_of_the_dense_model() -> None:
    assert config("full", None).train_cfg.max_iters == 240
    with pytest.raises(SetupError, match="expected more than 20 iterations, got 20"):
        config("full", 20)


def test_a_benchmark_without_pretrained_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="expected a benchmark with a pretrained encoder, got cam"):
        compare_lora.compare_lora("camvid", ["full"], [0], tmp_path)


def test_costs_of_a_frozen_encoder_are_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_lora, "ROUNDS", 1)
    configs = {}
    for way in ("full", "frozen"):
        cfg = Config.fromfile(ROOT / "configs/demo/cropr_tiny_segmenter_digits.py")
        cfg.train_dataloader.batch_size = 1
        WAYS[way](cfg)
        configs[way] = cfg
    found = costs(configs)
    assert found["frozen"]["optimizer"] < found["full"]["optimizer"]
    assert found["frozen"]["training"] < found["full"]["training"]
    first, last = found["full"]["cpu_seconds"]
    steps = configs["full"].train_cfg.max_iters
    low, high = sorted((first, last))
    assert steps * low / 60 <= found["full"]["cpu_minutes"] <= steps * high / 60


def test_mean_progress_of_a_curriculum() -> None:
    hook = dict(type="cropr_mm.CroprCurriculumHook")
    assert mean_progress(Config(dict(custom_hooks=[]))) == 1.0
    assert mean_progress(Config(dict(custom_hooks=[hook]))) == 0.75
    assert mean_progress(Config(dict(custom_hooks=[dict(hook, start=0.2, end=0.4)]))) == 0.7


def test_the_table_names_differences_where_there_are_some() -> None:
    points = dict(value=3.0, low=1.0, high=5.0)
    cost = dict(weights=2**29, optimizer=2**30, training=2**29, cpu_minutes=4.0)
    full = dict(way="full", **points, **cost) | {"minus random weights": points}
    head, row = cells(dict(metric="mIoU", rows=[full]))
    assert dict(zip(head, row, strict=True)) == {
        "encoder": "full",
        "mIoU": "3.0 (1.0 to 5.0)",
        "minus full": "",
        "minus random weights": "+3.0 (+1.0 to +5.0)",
        "GiB": "2.00",
        "CPU minutes": "4.0",
    }
