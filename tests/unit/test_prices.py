"""What each way to a pruned model trains, and how it is compared with the dense model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config

from experiments import prices as module
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.prices import prices, table
from experiments.runs import Run, make_config

POINTS = dict(pretraining=70.0, random=40.0, cropr=60.0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Config, Any]]:
    """Trainings and tests that would run, in order: kind, run, config and checkpoint."""
    seen: list[tuple[str, str, Config, Any]] = []

    def train(run: Run, cfg: Config) -> None:
        seen.append(("train", str(run.folder), cfg, cfg.get("load_from")))
        finish(run, dict(seconds_per_iteration=0.5, iterations=120))

    def test(run: Run, cfg: Config, checkpoint: Path) -> None:
        seen.append(("test", str(run.folder), cfg, checkpoint))
        finish(run, {})

    def finish(run: Run, times: dict) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "result.json").write_text(json.dumps(dict(metrics=dict(mIoU=1.0), **times)))

    def score(run: Run, samples: int) -> module.Values:
        points = POINTS[run.name.partition("@")[0]]
        noise = np.linspace(-1, 1, samples)  # the same pictures are hard for all
        return module.Values(dict(mIoU=points), dict(mIoU=points + noise), {})

    monkeypatch.setattr(module, "execute", train)
    monkeypatch.setattr(module, "execute_test", test)
    monkeypatch.setattr(module, "score", score)
    monkeypatch.setattr(module, "make_demo_data", lambda *args: None)
    monkeypatch.setattr(Run, "checkpoint", property(lambda run: run.folder / "last.pth"))
    return seen


def test_each_way_trains_what_it_says(
    calls: list[tuple[str, str, Config, Any]], tmp_path: Path
) -> None:
    ways = ["none, random", "routers, cropr", "all, cropr", "elastic, cropr"]
    dense = tmp_path / "digits_seg/seed0/pretraining"
    dense.mkdir(parents=True)
    (dense / "config.py").touch()
    file = prices("digits_seg", ways, [50, 87], [0], tmp_path, tmp_path, samples=20)
    kinds = [(kind, str(Path(run).relative_to(dense.parent))) for kind, run, _, _ in calls]
    assert kinds == [
        *(("test", f"none_random/{rate}") for rate in (50, 87)),
        *[("train", "routers_cropr/all"), ("test", "routers_cropr/50")],
        *[("train", "routers_cropr/all"), ("test", "routers_cropr/87")],  # the second is done
        *(("train", f"all_cropr/{rate}") for rate in (50, 87)),
        *[("train", "elastic_cropr/all"), ("test", "elastic_cropr/50")],
        *[("train", "elastic_cropr/all"), ("test", "elastic_cropr/87")],
    ]
    hooks = {
        Path(run).parent.name: {hook["type"] for hook in cfg.custom_hooks}
        - {"cropr_mm.CroprAuxLossHook"}
        for kind, run, cfg, _ in calls
        if kind == "train"
    }
    assert hooks == dict(
        routers_cropr={"cropr_mm.CroprRouterHook"},
        all_cropr=set(),
        elastic_cropr={"cropr_mm.CroprElasticHook"},
    )
    rates = [cfg.model.backbone.schedule.rate for _, _, cfg, _ in calls[2:6]]
    assert rates == [37, 21, 37, 37]
    checkpoints = [checkpoint for kind, _, _, checkpoint in calls if kind == "test"]
    place = dense.parent
    assert checkpoints == [
        *[dense / "last.pth"] * 2,
        *[place / "routers_cropr/all/last.pth"] * 2,
        *[place / "elastic_cropr/all/last.pth"] * 2,
    ]

    record = json.loads(file.read_text())
    rows = {(row["way"], row["rate"]): row for row in record["rows"]}
    difference = rows["none, random", 50]["minus_dense"]
    assert [*difference.values()] == pytest.approx([-30.0] * 3), "paired by image"
    assert rows["all, cropr", 87]["minus none, random"]["value"] == 20.0
    assert rows["none, random", 87]["minus all, cropr"]["value"] == -20.0
    minutes = [rows[way, 50]["minutes"] for way in ways]
    assert minutes == [0.0, 1.0, 1.0, 1.0]
    assert "all, cropr" in table(record)


def test_what_compare_fine_tuned_is_not_trained_again(
    calls: list[tuple[str, str, Config, Any]], tmp_path: Path
) -> None:
    seed = tmp_path / "camvid_dinov2s/seed0"
    task = BENCHMARK_TASKS["camvid_dinov2s"]
    dense = Run("camvid_dinov2s", 0, "pretraining", seed / "pretraining")
    dense.folder.mkdir(parents=True)
    dense.config.touch()
    for name, other in (("cropr", {}), ("cropr@70", dict(finetune_iters=7))):
        made = Run("camvid_dinov2s", 0, name, seed / name)
        made.folder.mkdir()
        cfg = make_config(made, replace(task, **other), dense.checkpoint)
        made.config.write_text(cfg.pretty_text)
        result = dict(metrics=dict(mIoU=1.0), seconds_per_iteration=2.0, iterations=90)
        (made.folder / "result.json").write_text(json.dumps(result))
    file = prices("camvid_dinov2s", ["all, cropr"], [70, 86], [0], tmp_path, tmp_path, samples=20)
    trained = [(kind, Path(run).name) for kind, run, _, _ in calls]
    assert trained == [("train", "70")], "that of compare was shorter"
    minutes = {row["rate"]: row["minutes"] for row in json.loads(file.read_text())["rows"][1:]}
    assert minutes[86] == 3.0
