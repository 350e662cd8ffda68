"""tools/analyze_tokens.py from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cropr_mm.build import build_model
from cropr_mm.datasets import DemoSettings, make_demo_data
from cropr_mm.runner import load_config

CONFIG = Path(__file__).parents[2] / "configs/demo/cropr_tiny_vit_digits_cls.py"
Tool = Callable[..., str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Config and checkpoint of a model with Cropr, then of one pruned at random."""
    folder = tmp_path_factory.mktemp("models")
    make_demo_data(folder / "data", DemoSettings(num_train=2, num_val=20))
    files = []
    for name, more in (("cropr", ""), ("random", "reducer=dict(type='cropr_mm.RandomPruner'), ")):
        config = folder / f"{name}.py"
        reducer = more.replace("reducer=dict(", "reducer=dict(_delete_=True, ")
        config.write_text(
            f"_base_ = '{CONFIG}'\n"
            f"data = '{folder / 'data'}/'\n"
            "test_dataloader = dict(dataset=dict(data_root=data))\n"
            "val_dataloader = train_dataloader = test_dataloader\n"
            f"model = dict(backbone=dict({reducer}))\n" + ("custom_hooks = []\n" if more else "")
        )
        torch.manual_seed(0)
        model = build_model(load_config(str(config)))
        torch.save({"state_dict": model.state_dict()}, folder / f"{name}.pth")
        files += [config, folder / f"{name}.pth"]
    return files


def test_two_models_are_compared_on_the_same_images(
    tool: Tool, models: list[Path], tmp_path: Path
) -> None:
    out = tool("analyze_tokens.py", *models, "--out", tmp_path)
    result = json.loads((tmp_path / "similarity.json").read_text())
    assert result["first"] == "cropr"
    found = result["others"]["random"]
    assert found["images"] == 20
    assert len(found["patches"]) == 6
    assert found["patches"][-1]["mean_kept"] == [39, 39]
    assert [entry["blocks"][0] for entry in found["features"]] == [0, 1, 2, 3, 4, 5, 7]
    assert "cropr and random, 20 images" in out
    assert str(tmp_path / "depth_maps.png") in out
    assert (tmp_path / "depth_maps.png").exists()
    assert not (tmp_path / "features.png").exists(), "classifiers return no maps"


def test_similarities_are_correlated_with_a_metric(
    tool: Tool, models: list[Path], tmp_path: Path
) -> None:
    third = models[2:]
    names = ["--names", "a", "b", "c", "--metric", "accuracy/top1"]
    out = tool("analyze_tokens.py", *models, *third, *names, "--out", tmp_path)
    found = json.loads((tmp_path / "similarity.json").read_text())["proxies"]
    assert found["metric"] == "accuracy/top1"
    assert list(found["scores"]) == ["a", "b", "c"]
    assert found["correlations"]["features, cka, 7"] is None, "b and c are the same"
    assert "correlation with what models lose against the first one (a " in out
    with pytest.raises(SystemExit) as end:
        tool("analyze_tokens.py", *models, *third, *names[:-1], "top1", "--out", tmp_path)
    assert "expected --metric to be one of accuracy/top1" in str(end.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "expected CONFIG CHECKPOINT of two models or more"),
        (["--names", "a"], "expected 2 different names (--names), got a"),
        (["--metric", "a"], "expected three models or more with --metric, got 2"),
        (["--names", "a", "a"], "expected 2 different names (--names), got a, a"),
    ],
)
def test_a_wrong_call_is_refused(
    tool: Tool, models: list[Path], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        tool("analyze_tokens.py", *(models if more else models[:3]), *more)
    assert str(end.value).startswith(f"error: {message}")
