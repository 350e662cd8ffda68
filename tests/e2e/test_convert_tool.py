"""A converted file trains, initializes and is tested by the tools, as users run them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tiny_tasks import CLASSES, write_config

from cropr_mm.checkpoints import safe_load

sys.path.append(str(Path(__file__).parents[1] / "equivalence"))
from naive_detectron2 import NaiveDetector, Settings
from test_detectron2 import small_config

# Without masks: the images have boxes only.
SMALL = Settings(
    depth=2,
    global_blocks=(1,),
    img_size=64,
    window_size=2,
    pretrain_grid=3,
    num_classes=len(CLASSES),
    masks=False,
)
PRUNING = dict(
    reducer=dict(type="cropr_mm.VariancePruner"),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 8}),
)


@pytest.fixture(autouse=True)
def _quick_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laying out the text of a config takes half of the time of these runs."""
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True))


def make_config(root: Path, settings: Settings, name: str, **changes: object) -> Path:
    """Config of a small detector on the tiny images; nothing moves in its one iteration."""
    cfg = Config.fromfile(write_config(root, "det", custom_hooks=[]))
    cfg.model = small_config(settings).model
    few = dict(nms_pre=50, max_per_img=20)
    quick = {
        "train_cfg": dict(type="IterBasedTrainLoop", max_iters=1),
        "val_cfg": None,
        "val_dataloader": None,
        "val_evaluator": None,
        "default_hooks.checkpoint.interval": 1,
        "optim_wrapper.optimizer.lr": 0.0,
        "model.train_cfg.rpn_proposal": few,
        "model.test_cfg.rpn": few,
    }
    cfg.merge_from_dict({**quick, **changes})
    cfg.dump(root / f"{name}.py")
    return root / f"{name}.py"


SOURCES = {
    "eva02_det": SMALL,
    "vitdet": SMALL._replace(eva=False, cascade=False, mlp_ratio=4.0),
}


@pytest.mark.parametrize("source", SOURCES)
def test_converted_file_starts_initializes_and_is_tested(
    source: str, root: Path, tool: Callable[..., str]
) -> None:
    settings = SOURCES[source]
    published, ours = root / f"{source}_published.pth", root / f"{source}.pth"
    torch.save(dict(model=NaiveDetector(settings).state_dict()), published)
    output = tool("convert_checkpoint.py", published, ours, "--source", source)
    assert f"checkpoint  {ours}" in output
    assert "prefix='backbone.'" in output
    weights = safe_load(ours)["state_dict"]

    work_dir = root / f"{source}_test"
    config = make_config(root, settings, f"{source}_test")
    tool("test.py", config, ours, "--work-dir", work_dir)
    assert "coco/bbox_mAP" in json.loads((work_dir / "test_metrics.json").read_text())

    pruned = {f"model.backbone.{key}": value for key, value in PRUNING.items()}
    starts: dict[str, dict] = {
        "load_from": dict(load_from=str(ours)),
        "init_cfg": {
            "model.backbone.init_cfg": dict(
                type="Pretrained", checkpoint=str(ours), prefix="backbone."
            )
        },
    }
    for name, changes in starts.items():
        work_dir = root / f"{source}_{name}"
        config = make_config(root, settings, f"{source}_{name}", **pruned, **changes)
        tool("train.py", config, "--work-dir", work_dir)
        trained = safe_load(work_dir / "iter_1.pth")["state_dict"]
        taken = {key for key, value in weights.items() if torch.equal(trained[key], value)}
        if name == "load_from":
            assert taken == set(weights)
        else:
            assert taken >= {key for key in weights if key.startswith("backbone.")}
            assert "neck.levels.0.4.weight" not in taken


def test_objects365_starts_a_model_of_other_classes(root: Path, tool: Callable[..., str]) -> None:
    published = root / "o365.pth"
    torch.save(NaiveDetector(SMALL._replace(num_classes=7)).state_dict(), published)
    config = make_config(root, SMALL, "coco")
    args = ("convert_checkpoint.py", published)
    output = tool(*args, root / "fitted.pth", "--source", "eva02_det", "--config", config)
    assert "another number of classes than the model's: roi_head.bbox_head.0.fc_cls" in output
    tool(*args, root / "whole.pth", "--source", "eva02_det")
    start = make_config(root, SMALL, "start", load_from=str(root / "whole.pth"))
    output = tool("train.py", start, "--work-dir", root / "o365")
    assert "6 keep their initial values: roi_head.bbox_head.0.fc_cls.bias" in output
    trained = safe_load(root / "o365/iter_1.pth")["state_dict"]
    fitted = safe_load(root / "fitted.pth")["state_dict"]
    assert len(trained) - len(fitted) == 6
    assert all(torch.equal(trained[name], value) for name, value in fitted.items())
    with pytest.raises(
        SystemExit, match=r"shapes .*\n.*fc_cls\.weight: expected \(3, 24\), got \(8"
    ):
        tool("test.py", config, root / "whole.pth", "--work-dir", root / "o365")


def test_bad_arguments_end_in_one_line(root: Path, tool: Callable[..., str]) -> None:
    file = root / "text.pth"
    file.write_text("each of these words is text")
    for args, message in (
        ((file, root / "y.pth", "--source", "mae"), r"^error: .*text\.pth: not a readable"),
        ((root / "no.pth", root / "y.pth", "--source", "mae"), r"^error: no checkpoint file at"),
        ((file, file, "--source", "mae"), "^error: expected a new file"),
        ((file, root / "y.pth", "--source", "mae", "--config", "no.py"), "^error: .*no.py"),
    ):
        with pytest.raises(SystemExit, match=message) as end:
            tool("convert_checkpoint.py", *args)
        assert len(str(end.value).splitlines()) == 1
    with pytest.raises(SystemExit, match="2"):  # argparse lists the choices
        tool("convert_checkpoint.py", file, root / "y.pth", "--source", "eva")
