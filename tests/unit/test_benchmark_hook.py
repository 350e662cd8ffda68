"""The benchmark hook times both encoders inside the model and leaves it as it was."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from cropr_mm import CroprViT
from cropr_mm.hooks import CroprBenchmarkHook
from cropr_mm.profiling.benchmark_record import format_benchmark
from cropr_mm.profiling.dense_vs_pruned import benchmark_model
from cropr_mm.profiling.encoder_cost import encoder_cost
from cropr_mm.profiling.meta import meta_twin


class Model(BaseModel):
    """Model around an encoder; notes whether reducers are there when it predicts."""

    def __init__(self, fail: bool = False, **backbone: Any) -> None:
        super().__init__()
        self.backbone = CroprViT(
            dict(embed_dim=16, depth=4, num_heads=2, patch_size=8, img_size=32), **backbone
        )
        self.fail = fail
        self.pruned: list[bool] = []

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "predict") -> list:
        if self.fail:
            raise RuntimeError("out of memory")
        assert not self.training
        assert not torch.is_grad_enabled()
        self.pruned.append(len(self.backbone.reducers) > 0)
        self.backbone(torch.stack(inputs))
        return []


class Preprocessor(torch.nn.Module):
    """Stacks images only where the encoder alone is timed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = True

    def forward(self, data: dict, training: bool) -> dict:
        if self.first:
            self.first = False
            return dict(inputs=torch.stack(data["inputs"]))
        return data


def runner(tmp_path: Path, model: Model) -> SimpleNamespace:
    model.data_preprocessor = Preprocessor()
    images = [dict(inputs=torch.rand(3, 32, 48)) for _ in range(3)]
    return SimpleNamespace(
        model=model.train(),
        test_dataloader=DataLoader(images, batch_size=2, collate_fn=pseudo_collate),
        test_loop=SimpleNamespace(fp16=False),
        work_dir=str(tmp_path),
        logger=logging.getLogger("benchmark"),
    )


PRUNED = dict(
    reducer=dict(type="cropr_mm.VariancePruner"),
    schedule=dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[0, 1]),
)


def test_pruned_and_dense_take_turns_inside_the_model(tmp_path: Path) -> None:
    model = Model(**PRUNED)
    backbone = model.backbone
    CroprBenchmarkHook(rounds=2, warmup=1).after_test(runner(tmp_path, model))
    rounds = [sorted(model.pruned[i : i + 2]) for i in range(0, len(model.pruned), 2)]
    assert rounds == [[False, True]] * (3 + 3), "times and parts"
    assert model.backbone is backbone
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert (record["batch_size"], record["img_size"]) == (2, [32, 48])
    assert record["tokens_per_block"] == [25, 13, 7, 7]
    assert len(record["model"]["functions"]["pruned"]["times_ms"]) == 2


def test_record_holds_counts_floors_and_parts(tmp_path: Path) -> None:
    model = Model(**PRUNED)
    CroprBenchmarkHook(rounds=1, warmup=0).after_test(runner(tmp_path, model))
    record = json.loads((tmp_path / "benchmark.json").read_text())
    for name, encoder in (("dense", model.backbone.unpruned()), ("pruned", model.backbone)):
        cost = encoder_cost(meta_twin(encoder), (32, 48)).macs
        counted, floor = record["macs"]["encoder"][name], record["floor"][name]
        assert (counted["macs_linear"], counted["macs_total"]) == (cost.linear, cost.total)
        assert floor["macs_linear"] == 2 * cost.linear, "of the batch"
        median = record["encoder"]["functions"][name]["median_ms"]
        assert floor["encoder_times_floor"] == pytest.approx(median / floor["ms"])
        one_round = [floor["encoder_times_floor"]] * 2
        assert floor["encoder_times_floor_interval"] == pytest.approx(one_round)
        parts = record["parts"][name]
        assert set(parts) == {*record["parts"]["contain"], "sum"}
        assert parts["encoder"]["median_ms"] > 0
    assert record["peak_memory_bytes"]["model"] == {"dense": None, "pruned": None}
    assert {"torch", "mmengine", "mmcv"} <= set(record["versions"])


@pytest.mark.parametrize("busy", ["latencies", "parts", "floors"])
def test_idle_means_that_no_run_was_disturbed(tmp_path: Path, busy: str) -> None:
    prepared = runner(tmp_path, Model(**PRUNED))
    batch = pseudo_collate(prepared.test_dataloader.dataset[:2])
    result = benchmark_model(prepared.model, batch, rounds=1, warmup=0)
    for runs in ("latencies", "parts", "floors"):
        quiet = {name: replace(run, load=0.1) for name, run in getattr(result, runs).items()}
        result = replace(result, **{runs: quiet})
    assert result.as_dict()["idle"]
    assert "NOT IDLE" not in format_benchmark(result)
    runs = getattr(result, busy)
    name = list(runs)[-1]
    result = replace(result, **{busy: runs | {name: replace(runs[name], load=0.7)}})
    assert not result.as_dict()["idle"]
    assert "NOT IDLE: other processes kept 0.70 cores busy" in format_benchmark(result)


def test_auxiliary_parts_are_never_timed(tmp_path: Path) -> None:
    model = Model(**PRUNED | dict(reducer=dict(type="cropr_mm.Cropr", num_classes=2)))
    CroprBenchmarkHook(rounds=1, warmup=0).after_test(runner(tmp_path, model))
    reducer = model.backbone.reducers["0"]
    assert not reducer.auxiliary._forward_pre_hooks, "no trace is left"
    reducer.register_forward_pre_hook(
        lambda module, args: module.auxiliary(module.queries, args[0].x) and None
    )
    with pytest.raises(AssertionError, match="an auxiliary part ran"):
        CroprBenchmarkHook(rounds=1, warmup=0).after_test(runner(tmp_path, model))


def test_less_than_a_batch_of_images_is_refused_before_the_test(tmp_path: Path) -> None:
    few = runner(tmp_path, Model(**PRUNED))
    few.test_dataloader = DataLoader(
        few.test_dataloader.dataset[:1], batch_size=2, collate_fn=pseudo_collate
    )
    with pytest.raises(ValueError, match=r"expected at least 2 test images .*, got 1"):
        CroprBenchmarkHook().before_test(few)
    CroprBenchmarkHook().before_test(runner(tmp_path, Model(**PRUNED)))


def test_encoder_is_put_back_after_a_failure(tmp_path: Path) -> None:
    model = Model(fail=True, **PRUNED)
    backbone = model.backbone
    with pytest.raises(RuntimeError, match="out of memory"):
        CroprBenchmarkHook(rounds=1, warmup=0).after_test(runner(tmp_path, model))
    assert model.backbone is backbone


def test_dense_model_is_timed_alone(tmp_path: Path) -> None:
    model = Model()
    CroprBenchmarkHook(rounds=1, warmup=0).after_test(runner(tmp_path, model))
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(record["encoder"]["functions"]) == {"dense"}
    assert set(record["floor"]) == {"dense"}
    assert model.pruned == [False, False]
