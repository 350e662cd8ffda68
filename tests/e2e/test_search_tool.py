"""A trained model and a budget become a config that the other tools take."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tiny_tasks import write_config

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.backbones.find import only_backbone
from cropr_mm.budget import search
from cropr_mm.budget.cost import CostModel
from cropr_mm.budget.damage import DamageMeter
from cropr_mm.budget.timing import ShowRounds
from cropr_mm.budget.work import Plan, work_of
from cropr_mm.build import build_model
from cropr_mm.profiling.latency import Latencies

Tool = Callable[..., str]
COST = CostModel((1, 64), (0.1, 6.4), pair_ms=0.0, step_ms=0.1, choice_ms=0.0, base_ms=1.0)
CROPR = dict(type="cropr_mm.Cropr", num_classes=2, num_queries=3)
DENSE = dict.fromkeys([f"model__backbone__{name}" for name in ("reducer", "schedule", "fusion")])


@pytest.fixture(autouse=True)
def _known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders so small are not faster with fewer tokens: times are counted instead."""

    def time_plans(
        backbone: CroprViT, plans: dict[str, Plan], form: str, images: torch.Tensor, rounds: int,
        show_rounds: ShowRounds,
    ) -> Latencies:  # fmt: skip
        times = {n: (COST.predict(work_of(backbone, plan)),) * rounds for n, plan in plans.items()}
        return Latencies(times, items=1, load=0.0, threads=1, device="cpu")

    monkeypatch.setattr("cropr_mm.budget.search.time_plans", time_plans)


def trained(root: Path, folder: Path, task: str, **changes: Any) -> tuple[Path, Path]:
    """Config and checkpoint of a tiny model."""
    config = write_config(root, task, custom_hooks=[], **changes)
    model = build_model(Config.fromfile(config))
    file = folder / "model.pth"
    torch.save(dict(meta={}, state_dict=model.state_dict()), file)
    return config, file


@pytest.mark.parametrize(("task", "metric"), [("seg", "mIoU"), ("cls", "accuracy/top1")])
def test_found_config_is_tested_with_the_dense_checkpoint(
    task: str, metric: str, root: Path, tmp_path: Path, tool: Tool
) -> None:
    config, checkpoint = trained(root, tmp_path, task, **DENSE)
    reducer = ("--reducer", "VariancePruner")
    out = tmp_path / "found"
    budget = ("--max-drop", 100, "--images", 4, "--rounds", 1)
    printed = tool("search_schedule.py", config, checkpoint, *budget, *reducer, "--out", out)
    assert "taken from" not in printed
    assert (out / "frontier.png").stat().st_size > 10_000
    report = json.loads((out / "report.json").read_text())
    chosen = report["candidates"][report["chosen"]]
    assert chosen["growth"] == pytest.approx(
        sum(chosen["losses"]) / sum(report["candidates"]["dense"]["losses"]) - 1
    )
    found = only_backbone(build_model(Config.fromfile(out / "config.py"), "meta"))[1]
    assert found.num_keep() == {int(block): n for block, n in chosen["plan"].items()}
    again = tool("search_schedule.py", config, checkpoint, *budget, *reducer, "--out", out)
    assert again.count("taken from") == 2, "costs and damages serve the next budget"
    tested = tool("test.py", out / "config.py", checkpoint, "--work-dir", tmp_path / "test")
    assert metric in tested


def test_the_trial_has_images_of_its_own(
    root: Path, tmp_path: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = trained(root, tmp_path, "seg", **DENSE)
    used: list[set[str]] = []

    class Recording(DamageMeter):
        """Notes the files of its images."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            used.append({s.img_path for batch in self.batches for s in batch["data_samples"]})

    monkeypatch.setattr("cropr_mm.budget.run.DamageMeter", Recording)
    budget = ("--max-drop", 100, "--images", 4, "--rounds", 1)
    tool("search_schedule.py", config, checkpoint, *budget, "--out", tmp_path / "found")
    damage, trial = used
    assert damage
    assert trial
    assert not damage & trial


@pytest.mark.parametrize(
    "steps",
    [
        dict(type="cropr_mm.ExplicitTokens", num_keep={1: 40, 2: 20}),
        dict(type="cropr_mm.Stages", rate=[24, 20], blocks=[1, 2], absorb_prefix=False),
        dict(type="cropr_mm.ExplicitShares", share={1: 0.625, 2: 0.3125}),
    ],
    ids=lambda steps: steps["type"],
)
def test_learned_steps_stay_where_the_checkpoint_has_them(
    steps: dict[str, Any], root: Path, tmp_path: Path, tool: Tool
) -> None:
    steps = dict(steps, _delete_=True)
    changes = dict(model__backbone__reducer=CROPR, model__backbone__schedule=steps)
    config, checkpoint = trained(root, tmp_path, "det", **changes)
    out = tmp_path / "found"
    budget = ("--max-drop", 100, "--images", 4, "--rounds", 1)
    tool("search_schedule.py", config, checkpoint, *budget, "--out", out)
    report = json.loads((out / "report.json").read_text())
    assert report["candidates"]["config"]["plan"] == {"1": 40, "2": 20}
    damage = json.loads((out / "damage.json").read_text())["result"]
    assert {block for block, _, _ in damage} == {1, 2}
    assert all({*choice["plan"]} <= {"1", "2"} for choice in report["frontier"])
    found = only_backbone(build_model(Config.fromfile(out / "config.py"), "meta"))[1]
    assert {int(block) for block in found.reducers} == {1, 2}, "the checkpoint has both"
    tool("test.py", out / "config.py", checkpoint, "--work-dir", tmp_path / "test")


def test_options_and_new_weights_are_not_forgotten(root: Path, tmp_path: Path, tool: Tool) -> None:
    config, checkpoint = trained(root, tmp_path, "seg", **DENSE)
    out, mean = tmp_path / "found", [1.0, 2.0, 3.0]
    command = (config, checkpoint, "--max-drop", 100, "--images", 4, "--rounds", 1, "--out", out)
    options = ("--cfg-options", f"model.data_preprocessor.mean={mean}".replace(" ", ""))
    tool("search_schedule.py", *command, *options)
    found = Config.fromfile(out / "config.py")
    assert found.model.data_preprocessor.mean == mean
    assert found.work_dir == str(out)
    os.utime(checkpoint, ns=(0, 0))  # trained again: a file of the same size
    again = tool("search_schedule.py", *command, *options)
    assert "taken from" in again
    assert "damage.json" not in again


def test_fitted_shortcuts_are_not_searched(root: Path, tmp_path: Path, tool: Tool) -> None:
    fusion = dict(type="cropr_mm.ShortcutFusion", _delete_=True)
    config, checkpoint = trained(root, tmp_path, "seg", model__backbone__fusion=fusion)
    with pytest.raises(SystemExit, match="search the dense config"):
        tool("search_schedule.py", config, checkpoint, "--speedup", 2, "--out", tmp_path / "o")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reducer", "Cropr"], "Cropr has weights of its own, which the checkpoint lacks"),
        (["--reducer", "ToMe"], "expected a method that keeps any number of tokens as they are"),
        (["--reducer", "Absent"], "--reducer expects one of ATS, AttnTopK, .* got cropr_mm.Absent"),
        (["--device", "foo"], "expected a --device that torch can use, got foo"),
        (["--images", "2"], "expected --images of two batches of 2 at least, 4, got 2"),
        (["--target-ms", "0.5", "--images", "4"], "no plan reaches 0.5 ms"),
        (["--images", "100"], "expected at least 100 training images, got 4"),
        (["--speedup", "0.5"], "a speed-up above 1"),
    ],
)
def test_what_cannot_be_searched_is_named(
    options: list[str], message: str, root: Path, tmp_path: Path, tool: Tool
) -> None:
    config, checkpoint = trained(root, tmp_path, "seg", **DENSE)
    budget = [] if {"--speedup", "--target-ms"} & {*options} else ["--max-drop", "1"]
    with pytest.raises(SystemExit, match=message):
        tool("search_schedule.py", config, checkpoint, *budget, *options, "--out", tmp_path / "o")
    assert not (tmp_path / "o/damage.json").exists(), "before the longest part"


@pytest.mark.parametrize(("slower", "said"), [(1.5, "found again *"), (9.0, "comes nearest")])
def test_a_faster_plan_is_tried_where_predictions_were_too_good(
    slower: float,
    said: str,
    root: Path,
    tmp_path: Path,
    tool: Tool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = search.time_plans

    def time_plans(backbone: CroprViT, plans: dict[str, Plan], *args: Any) -> Latencies:
        found = counted(backbone, plans, *args)
        for name in plans:
            if "dense" in plans and name != "dense":  # when plans are tried whole
                found.times[name] = tuple(slower * ms for ms in found.times[name])
        return found

    monkeypatch.setattr(search, "time_plans", time_plans)
    config, checkpoint = trained(root, tmp_path, "seg", **DENSE)
    options = ("--speedup", 1.3, "--images", 4, "--rounds", 1, "--out", tmp_path / "o")
    printed = tool("search_schedule.py", config, checkpoint, *options)
    assert said in printed
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert report["met"] is (slower < 2)


def test_the_searched_config_is_not_overwritten(root: Path, tmp_path: Path, tool: Tool) -> None:
    config, checkpoint = trained(root, tmp_path, "seg", **DENSE)
    config = config.rename(config.with_name("config.py"))
    with pytest.raises(
        SystemExit, match=r"config\.py would be overwritten: expected another --out"
    ):
        tool("search_schedule.py", config, checkpoint, "--speedup", 2, "--out", config.parent)


def test_another_method_in_learned_steps_is_refused(root: Path, tmp_path: Path, tool: Tool) -> None:
    config, checkpoint = trained(root, tmp_path, "seg", model__backbone__reducer=CROPR)
    options = ("--speedup", 2, "--reducer", "AttnTopK", "--out", tmp_path / "o")
    with pytest.raises(SystemExit, match="or the dense config and its checkpoint"):
        tool("search_schedule.py", config, checkpoint, *options)
