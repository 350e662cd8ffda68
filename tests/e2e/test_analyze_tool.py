"""tools/analyze_tokens.py from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cropr_mm.build import build_model
from cropr_mm.datasets import DemoSettings, make_demo_data
from cropr_mm.engine.config import load_config

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
    tool: Tool, models: list[Path], figures: list[Figure], tmp_path: Path
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
    assert "none  (nothing to draw of cropr, random)" in out
    assert not (tmp_path / "features.png").exists(), "classifiers return no maps"
    assert len(result["models"]["random"]["depth_map"]) == 16
    tokens, maps = figures
    assert len(tokens.axes) == 2 * 2 * 6, "two images of two models: the image and five steps"
    assert tokens.axes[0].get_title() == "cropr, image 6"
    photo = cv2.imread(str(sorted((models[0].parent / "data/images/val").glob("*.png"))[5]))
    shown = np.asarray(tokens.axes[0].images[0].get_array())[1::3, 1::3]  # enlarged three times
    np.testing.assert_array_equal(shown, photo[..., ::-1])
    depths = [np.array(result["models"][n]["depth_map"]) + 1 for n in ("cropr", "random")]
    for axis, depth in zip(maps.axes, depths, strict=False):
        np.testing.assert_allclose(axis.images[0].get_array(), depth)


def test_one_model_is_summarized_and_drawn(
    tool: Tool, models: list[Path], figures: list[Figure], tmp_path: Path
) -> None:
    out = tool("analyze_tokens.py", *models[:2], "--images", 1, "--out", tmp_path)
    found = json.loads((tmp_path / "similarity.json").read_text())
    assert found["others"] == {}
    assert [step["kept"] for step in found["models"]["cropr"]["steps"]][-1] == [39, 39, 39]
    assert "one model: overlap, agreement and similarity of features need another one" in out
    assert [len(figure.axes) for figure in figures] == [6, 2]


def test_files_called_alike_are_named_by_their_folders(
    tool: Tool, models: list[Path], tmp_path: Path
) -> None:
    files = []
    for config, checkpoint in (models[:2], models[2:]):
        copy = tmp_path / config.stem / "config.py"
        copy.parent.mkdir()
        copy.write_text(config.read_text())
        files += [copy, checkpoint]
    tool("analyze_tokens.py", *files, "--images", 0, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out/similarity.json").read_text())
    assert list(found["models"]) == ["cropr", "random"]
    for name in found["models"]:
        assert (tmp_path / "out" / name / "test_metrics.json").exists(), "a folder for each model"
    assert not (tmp_path / "out/tokens.png").exists()


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
        ([], "expected CONFIG CHECKPOINT of each model, got 3 files"),
        (
            ["none.py", "none.pth", "--names", "a", "b", "c"],
            "expected a config or checkpoint file, ",
        ),
        (["--out", __file__], "--out expects a folder, got the file "),
        (["--images", "-1"], "expected --images of 0 or more, got -1"),
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
