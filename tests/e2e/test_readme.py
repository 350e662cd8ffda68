"""The swaps that README shows train and predict, with nothing but what it shows."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cropr_mm.hooks.aux_loss import AuxiliaryListener
from cropr_mm.registry import TASK_UTILS

README = Path(__file__).parents[2] / "README.md"


DIFFS = re.findall(r"```diff\n(.+?)```", README.read_text(), flags=re.DOTALL)


def test_there_are_swaps() -> None:
    assert [re.search(r"mmdet::(\w+)/", diff)[1] for diff in DIFFS] == ["mask_rcnn", "dino"]


@pytest.fixture(params=DIFFS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    pytest.importorskip("mmdet")
    lines = request.param.splitlines()
    assert not any(line.startswith("-") for line in lines)
    path = tmp_path / "config.py"
    path.write_text("\n".join(line[1:] for line in lines))
    return Config.fromfile(path)


@pytest.mark.slow
def test_swaps_in_readme_train_and_predict(config: Config) -> None:
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    inputs = demo_mm_inputs(
        2, image_shapes=[(3, 224, 256)] * 2, num_items=[3, 2], num_classes=80, with_mask=True
    )
    hook = config.custom_hooks[0]
    listener = AuxiliaryListener(model, TASK_UTILS.build(hook.target), loss_weight=1.0)
    losses = model(**model.data_preprocessor(inputs, True), mode="loss")
    loss, values = model.parse_losses(losses)
    loss.backward()
    listener.remove()
    assert torch.isfinite(loss)
    assert sum("cropr" in name for name in values) == 3
    tokens = model.backbone.num_keep()
    assert list(tokens) == [3, 6, 9]
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(inputs, False), mode="predict")
    assert len(results) == 2
