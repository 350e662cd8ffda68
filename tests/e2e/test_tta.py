"""``tools/test.py --tta`` tests with the augmentation of each host library."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from tiny_tasks import write_config

from cropr_mm.build import build_model


def random_checkpoint(config: Path, file: Path) -> Path:
    """Weights of the config's model without training, which predicts something."""
    torch.manual_seed(1)
    torch.save(dict(state_dict=build_model(Config.fromfile(config)).state_dict()), file)
    return file


@pytest.mark.parametrize("task", ["det", "seg", "cls"])
def test_each_image_is_seen_twice(
    task: str, root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    config = write_config(root, task)
    checkpoint = random_checkpoint(config, tmp_path / "random.pth")
    passes: list[int] = []

    def count(module: torch.nn.Module, args: object, output: object) -> None:
        if type(module).__name__ == "CroprViT":
            passes.append(1)

    handle = torch.nn.modules.module.register_module_forward_hook(count)
    output = tool("test.py", config, checkpoint, "--work-dir", tmp_path / "tta", "--tta")
    handle.remove()
    assert "Tested." in output
    assert len(passes) == 2 + 4  # the first image, and two batches, as they are and mirrored


def test_scores_are_the_mean_of_both_passes(
    root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    config = write_config(root, "cls")
    checkpoint = random_checkpoint(config, tmp_path / "random.pth")
    scores = {}
    flip = [
        dict(type="LoadImageFromFile"),
        dict(type="RandomFlip", prob=1.0),
        dict(type="PackInputs"),
    ]
    mirrored = write_config(root, "cls", test_dataloader__dataset__pipeline=flip)
    for name, file, options in (
        ("plain", config, ()),
        ("mirrored", mirrored, ()),
        ("tta", config, ("--tta",)),
    ):
        out = tmp_path / f"{name}.pkl"
        work_dir = tmp_path / name
        tool("test.py", file, checkpoint, "--work-dir", work_dir, "--out", out, *options)
        scores[name] = np.stack(
            [np.asarray(p["pred_score"]) for p in pickle.loads(out.read_bytes())]
        )
    assert np.abs(scores["plain"] - scores["mirrored"]).max() > 1e-6
    np.testing.assert_allclose(scores["tta"], (scores["plain"] + scores["mirrored"]) / 2, rtol=1e-5)


def test_the_models_and_pipelines_of_a_config_are_used(
    root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    config = write_config(root, "seg", tta_model=dict(type="Nonsense"))
    checkpoint = random_checkpoint(config, tmp_path / "random.pth")
    with pytest.raises(SystemExit, match="Nonsense"):
        tool("test.py", config, checkpoint, "--work-dir", tmp_path / "a", "--tta")
    config = write_config(root, "seg", tta_pipeline=[dict(type="Nonsense")])
    with pytest.raises(SystemExit, match="Nonsense"):
        tool("test.py", config, checkpoint, "--work-dir", tmp_path / "b", "--tta")


def test_masks_are_not_merged(root: Path, tool: Callable[..., str], tmp_path: Path) -> None:
    config = write_config(root, "det", test_evaluator__metric=["bbox", "segm"])
    checkpoint = random_checkpoint(config, tmp_path / "random.pth")
    with pytest.raises(SystemExit, match=r"add --cfg-options test_evaluator\.metric=bbox"):
        tool("test.py", config, checkpoint, "--work-dir", tmp_path, "--tta")
