"""What the choice of tokens can change: whose weights are tested, and what the table says."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from experiments import compare_room
from experiments.runs import PRETRAINING, Run

PERFECT = 80.0


class Scores:
    """A metric with the same value on every selection of four images."""

    num_images = 4
    films = ()

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, images: np.ndarray) -> dict[str, float]:
        return {"mIoU": self.value}

    def by_class(self) -> dict[str, float]:
        return {"Sky": self.value}


def test_choices_are_compared_with_dense_and_with_random_at_their_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    values = {
        "dense": PERFECT,
        "oracle": 70.0,
        "random": 60.0,
        "oracle@50": 75.0,
        "random@50": 74.0,
    }
    dense = Run("digits_seg", 0, PRETRAINING, tmp_path / f"digits_seg/seed0/{PRETRAINING}")
    dense.folder.mkdir(parents=True)
    dense.config.touch()
    monkeypatch.setattr(compare_room, "scores_of", lambda run, name: Scores(values[name]))
    compare_room.compare_room(tmp_path, "digits_seg", list(values)[1:], [0])
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1:] for row in rows[3:]] == [
        ["70.0", "-10.0 (-10.0 to -10.0)", "+10.0 (+10.0 to +10.0) |"],
        ["60.0", "-20.0 (-20.0 to -20.0)", " |"],
        ["75.0", "-5.0 (-5.0 to -5.0)", "+1.0 (+1.0 to +1.0) |"],
        ["74.0", "-6.0 (-6.0 to -6.0)", " |"],
    ]
    assert '"by_class_per_seed"' in (tmp_path / "digits_seg/room.json").read_text()


def test_routers_learn_first_and_alone_where_a_choice_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"digits_seg/seed0/{PRETRAINING}"
    (folder / "train").mkdir(parents=True)
    (folder / "train/last_checkpoint").write_text(str(folder / "train/iter_1.pth"))
    done: list[tuple[Run, Config, str]] = []

    def execute(run: Run, cfg: Config, trainable: str) -> None:
        run.folder.mkdir(parents=True)
        (run.folder / "result.json").write_text('{"metrics": {}}')
        done.append((run, cfg, trainable))

    read = compare_room.TASKS["seg"]
    monkeypatch.setattr(compare_room, "execute", execute)
    monkeypatch.setitem(
        compare_room.TASKS,
        "seg",
        type(read)(read.metrics, read.record, lambda cfg, folder: folder, read.logits),
    )
    dense = Run("digits_seg", 0, PRETRAINING, folder)
    found = compare_room.scores_of(dense, "cropr@50")
    ((run, cfg, trainable),) = done
    assert trainable == "routers"
    assert found == run.folder == tmp_path / "digits_seg/seed0/routers/cropr@50"
    assert cfg.load_from == str(folder / "train/iter_1.pth")
    assert [hook.type for hook in cfg.custom_hooks] == ["cropr_mm.CroprAuxLossHook"]
