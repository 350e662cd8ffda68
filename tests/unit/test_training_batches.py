"""A fixed sample of the training data."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from cropr_mm.engine.training_batches import training_batches

SIZE = 8


@pytest.mark.parametrize("mixing", [None, dict(augments=[dict(type="Mixup", alpha=1.0)])])
def test_images_are_not_mixed(tmp_path: Path, mixing: dict | None) -> None:
    models = pytest.importorskip("mmpretrain.models")
    for number, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for copy in range(2):
            color = (200 * number,) * 3
            Image.new("RGB", (SIZE, SIZE), color).save(tmp_path / name / f"{copy}.png")
    pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
    cfg = Config(
        dict(
            train_dataloader=dict(
                batch_size=4,
                dataset=dict(type="mmpretrain.CustomDataset", data_root=str(tmp_path), pipeline=[
                    dict(step, type=f"mmpretrain.{step['type']}") for step in pipeline
                ]),
                collate_fn=dict(type="default_collate"),
            )
        )
    )  # fmt: skip
    model = nn.Module()
    model.data_preprocessor = models.ClsDataPreprocessor(num_classes=2, batch_augments=mixing)
    (batch,) = training_batches(cfg, model, images=4)
    colors = batch["inputs"].flatten(1)
    assert torch.equal(colors.amin(dim=1), colors.amax(dim=1))
    assert sorted(colors[:, 0].tolist()) == [0, 0, 200, 200]
