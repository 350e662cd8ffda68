"""The benchmark hook times both encoders inside the model and leaves it as it was."""

import json
import logging
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
    assert model.pruned == [False, True] * 3
    assert model.backbone is backbone
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert (record["batch_size"], record["img_size"]) == (2, [32, 48])
    assert record["tokens_per_block"] == [25, 13, 7, 7]
    assert len(record["model"]["functions"]["pruned"]["times_ms"]) == 2


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
    assert model.pruned == [False]
