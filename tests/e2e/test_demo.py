"""The demo, with few iterations: what it writes, that it resumes, and that broken promises fail."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from cropr_mm.analysis.latency import measure
from cropr_mm.datasets import DemoSettings, make_demo_data
from cropr_mm.hooks import benchmark

ROOT = Path(__file__).parents[2]
TITLES = ("box AP50", "mask AP50", "tokens pruned", "encoder", "model", "train", "pictures")


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], tuple[int, Path]]:
    data = tmp_path / "data"
    facts = make_demo_data(data, DemoSettings(num_train=4, num_val=3))
    monkeypatch.setattr(demo, "make_demo_data", lambda _: facts)
    monkeypatch.setattr(demo, "use_cores", lambda _: 1)
    rounds = dict(rounds=1, warmup=0)
    monkeypatch.setattr(benchmark, "measure", lambda f, **kw: measure(f, **{**kw, **rounds}))
    config = tmp_path / "config.py"

    def call(checkpoint_interval: int) -> tuple[int, Path]:
        config.write_text(
            f"""
_base_ = {str(ROOT / demo.CONFIG)!r}
train_cfg = dict(max_iters=3)
default_hooks = dict(checkpoint=dict(interval={checkpoint_interval}))
custom_hooks = [*_base_.custom_hooks[:1], dict(type="cropr_mm.PruningMapHook", interval=1)]
train_dataloader = dict(batch_size=2, dataset=dict(data_root={str(data)!r}))
test_dataloader = dict(batch_size=1, dataset=dict(data_root={str(data)!r}))
test_evaluator = dict(ann_file={str(data / "annotations/instances_val.json")!r})
"""
        )
        return demo.run(str(config), tmp_path / "work"), tmp_path / "work"

    return call


def test_three_iterations_break_the_promise_but_show_everything(
    run: Callable[[int], tuple[int, Path]], monkeypatch: pytest.MonkeyPatch, demo: ModuleType
) -> None:
    said: list[str] = []
    monkeypatch.setattr(demo, "say", said.append)
    code, work_dir = run(1)
    assert code == 1
    text = "\n".join(said)
    assert text.count("BROKEN") == 2
    assert all(title in text for title in TITLES)
    assert len(text.splitlines()) < 60
    record = json.loads((work_dir / "demo.json").read_text())
    assert record["broken"] == ["coco/bbox_mAP_50", "coco/segm_mAP_50"]
    assert record["metrics"]["pruned"] >= 0.85
    assert len([*(work_dir / "vis").glob("*.png")]) == 3
    assert cv2.imread(str(work_dir / "pictures.png")).shape[1] > 1000

    said.clear()  # finished: the next run starts anew
    run(1)
    assert any("iterations 1 to 3" in line for line in said)

    said.clear()  # interrupted before the end of the training: it goes on
    (work_dir / "demo.json").unlink()
    (work_dir / "iter_3.pth").rename(work_dir / "iter_2.pth")
    (work_dir / "last_checkpoint").write_text(str(work_dir / "iter_2.pth"))
    monkeypatch.setattr(demo, "train", lambda cfg, resume: said.append(f"resumed {resume}"))
    run(1)
    assert f"resumed {work_dir / 'iter_2.pth'}" in said

    said.clear()  # another config: anew
    (work_dir / "demo.json").unlink()
    with pytest.raises(Exception, match="checkpoint"):
        run(2)
    assert "resumed None" in said


def test_other_tasks_are_refused(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["demo.py", "--task", "seg"])
    with pytest.raises(SystemExit) as error:
        demo.main()
    assert error.value.code == 2
    assert "task seg is not available yet; available: det" in capsys.readouterr().err


def test_an_interrupt_needs_no_traceback(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    said: list[str] = []
    monkeypatch.setattr(demo, "run", interrupt)
    monkeypatch.setattr(demo, "say", said.append)
    monkeypatch.setattr("sys.argv", ["demo.py"])
    monkeypatch.chdir(tmp_path)  # main changes the folder; this puts it back
    with pytest.raises(SystemExit) as error:
        demo.main()
    assert error.value.code == 130
    assert "goes on from the last checkpoint" in said[0]
