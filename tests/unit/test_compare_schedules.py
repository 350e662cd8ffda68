"""Found and hand-made schedules are tested and fine-tuned alike, and compared by picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config

from cropr_mm.engine.preflight import SetupError
from experiments import compare_schedules as module
from experiments.compare_schedules import cells, compare_schedules
from experiments.runs import Run

PLANS = {
    "found 2": {"1": 128, "4": 32},
    "ConstantRate": {str(block): 256 - 32 * (block + 1) for block in range(6)},
    "config": {"0": 16},
}
POINTS = {"pretraining": 70.0, "before": 30.0, "after": 60.0}


def report(folder: Path, tokens: int = 256) -> Path:
    candidates = {name: dict(plan=plan, ms=9.0, predicted_ms=9.0) for name, plan in PLANS.items()}
    candidates["dense"] = dict(plan={}, ms=20.0, predicted_ms=20.0)
    file = folder / "report.json"
    record = dict(
        candidates=candidates,
        chosen="found 2",
        cost=dict(model=dict(counts=[8, tokens])),
        budget=dict(speedup=2.0),
        load=0.0,
        method=dict(type="cropr_mm.VariancePruner"),
    )
    file.write_text(json.dumps(record))
    return file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Config, Any]]:
    """Trainings and tests that would run, in order: kind, place, config and checkpoint."""
    seen: list[tuple[str, str, Config, Any]] = []

    def note(kind: str, run: Run, cfg: Config, checkpoint: Any) -> None:
        seen.append((kind, f"{run.folder.parent.name}/{run.folder.name}", cfg, checkpoint))
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "result.json").write_text(json.dumps(dict(metrics=dict(mIoU=1.0))))

    def score(run: Run, samples: int) -> module.Values:
        points = POINTS[run.folder.name] + 2.0 * (run.folder.parent.name == "found")
        noise = np.linspace(-1, 1, samples)  # the same pictures are hard for all
        return module.Values(dict(mIoU=points), dict(mIoU=points + noise), {})

    monkeypatch.setattr(module, "check_inputs", lambda benchmark: None)
    monkeypatch.setattr(module, "make_demo_data", lambda *args: None)
    monkeypatch.setattr(
        module, "execute", lambda run, cfg: note("train", run, cfg, cfg.get("load_from"))
    )
    monkeypatch.setattr(module, "execute_test", lambda run, cfg, file: note("test", run, cfg, file))
    monkeypatch.setattr(module, "score", score)
    monkeypatch.setattr(Run, "checkpoint", property(lambda run: run.folder / "last.pth"))
    return seen


def test_found_and_hand_made_get_the_same_training(
    calls: list[tuple[str, str, Config, Any]], tmp_path: Path
) -> None:
    dense = tmp_path / "digits_seg/seed0/pretraining"
    dense.mkdir(parents=True)
    (dense / "config.py").touch()
    file = compare_schedules(
        "digits_seg", report(tmp_path), "cropr", [0], tmp_path, tmp_path / "out", samples=20
    )
    assert [call[:2] for call in calls] == [
        ("test", "found/before"),
        ("train", "found/after"),
        ("test", "ConstantRate/before"),
        ("train", "ConstantRate/after"),
    ], "the config's own schedule was not made for this time"
    assert {str(checkpoint) for *_, checkpoint in calls} == {str(dense / "last.pth")}
    shares = [cfg.model.backbone.schedule.share for _, _, cfg, _ in calls]
    assert shares[0] == shares[1] == {1: 0.5, 4: 0.125}
    assert shares[2][5] == 64 / 256
    kinds = [cfg.model.backbone.reducer.type for _, _, cfg, _ in calls]
    assert kinds == ["cropr_mm.VariancePruner", "cropr_mm.Cropr"] * 2

    record = json.loads(file.read_text())
    rows = {row["plan"]: row for row in record["rows"]}
    assert rows["dense"]["value"] == 70.0
    better = rows["ConstantRate"]["found minus it, after"]
    assert [*better.values()] == pytest.approx([2.0] * 3), "paired by image"
    assert cells(record)[-1][0] == "ConstantRate"


def test_a_search_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="256 tokens, got one of 432"):
        compare_schedules(
            "digits_seg", report(tmp_path, tokens=432), "cropr", [0], tmp_path, tmp_path
        )


def test_a_dense_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="a pruned variant, got dense"):
        compare_schedules("digits_seg", report(tmp_path), "dense", [0], tmp_path, tmp_path)
