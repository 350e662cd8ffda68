"""A dense checkpoint is pruned without training or by its routers alone, and tested at any rate."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tiny_tasks import BACKBONE, write_config

from cropr_mm import CroprViT
from cropr_mm.checkpoints import safe_load

DENSE = dict(
    model__backbone=dict(
        _delete_=True, type="cropr_mm.CroprViT", arch=BACKBONE["arch"], drop_path_rate=0.3
    )
)
CROPR = dict(model__backbone__reducer=dict(_delete_=True, type="cropr_mm.Cropr"))
LOSS_HOOK = dict(type="cropr_mm.CroprAuxLossHook", target=dict(type="cropr_mm.MultiLabelTarget"))
SCORE = "mIoU"
Tool = Callable[..., str]


@pytest.fixture(scope="module")
def dense(root: Path) -> tuple[Path, Path]:
    """Config of a dense segmenter, and a checkpoint of it."""
    config, work_dir = write_config(root, "seg", **DENSE), root / "dense"
    from run_tool import run_tool

    run_tool("train.py", config, "--work-dir", work_dir)
    return config, work_dir / "iter_2.pth"


def score(work_dir: Path) -> float:
    return json.loads((work_dir / "test_metrics.json").read_text())[SCORE]


@pytest.mark.parametrize(
    "method",
    [
        ("ShortcutPruner", "--images", 4),
        ("AttnTopK", "--images", 0),
        ("ToMe", "--reducer", "ToMe"),
        ("VariancePruner", "--reducer", "VariancePruner", "--pruned", 0.8, "--images", 4),
    ],
)
def test_a_pruned_checkpoint_is_tested_as_it_is(
    method: tuple, dense: tuple[Path, Path], tool: Tool, tmp_path: Path
) -> None:
    tool("test.py", *dense, "--work-dir", tmp_path / "dense")
    out = tmp_path / "pruned"
    wanted, *args = method
    printed = tool("prune.py", *dense, out, *args)
    assert f"python tools/test.py {out / 'config.py'} {out / 'model.pth'}" in printed
    cfg = Config.fromfile(out / "config.py")
    assert cfg.model.backbone.reducer.type == f"cropr_mm.{wanted}"
    stored = Config.fromstring(safe_load(out / "model.pth")["meta"]["cfg"], ".py")
    assert stored.model == cfg.model
    tool("test.py", out / "config.py", out / "model.pth")
    assert 0 <= score(out) <= 100
    tool("test.py", out / "config.py", out / "model.pth", "--progress", 0)
    assert score(out) == score(tmp_path / "dense"), "no weight is another"


def test_a_pruned_config_is_fitted_and_then_trained(
    dense: tuple[Path, Path], root: Path, tool: Tool, tmp_path: Path
) -> None:
    fusion = dict(_delete_=True, type="cropr_mm.ShortcutFusion")
    changes = dict(custom_hooks=[LOSS_HOOK], model__backbone__fusion=fusion, **CROPR)
    config, out = write_config(root, "seg", **changes), tmp_path / "fitted"
    printed = tool("prune.py", config, dense[1], out, "--images", 4)
    trains = f"tools/train.py {out / 'config.py'} --load-from {out / 'model.pth'}"
    assert "Cropr has to be trained" in printed
    assert trains in printed
    tool("train.py", *trains.split()[1:], "--work-dir", tmp_path / "run")
    fitted = safe_load(out / "model.pth")["state_dict"]
    trained = safe_load(tmp_path / "run" / "iter_2.pth")["state_dict"]
    moved = [n for n in fitted if ".shortcuts." in n and not torch.equal(fitted[n], trained[n])]
    assert moved, "shortcuts learn on from the fit"
    with pytest.raises(SystemExit, match="pruned already: expected neither --pruned"):
        tool("prune.py", config, dense[1], tmp_path / "b", "--pruned", 0.5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--reducer", "Cropr"), r"Cropr has to be trained: expected one of ATS, AttnTopK"),
        (("--reducer", "SiT"), "SiT has to be trained"),
        (("--reducer", "Absent"), "expects one of ATS, .*, got cropr_mm.Absent"),
        (("--reducer", "CroprViT"), "expects one of ATS, .*, got cropr_mm.CroprViT"),
        (("--reducer", "ToMe", "--images", 4), "no pruned token comes back .* with this method"),
        (("--images", -1), "expected --images of 0 or more, got -1"),
        (("--images", 1000), "expected at least 1000 training images, got"),
        (
            ("--reducer", "ShortcutPruner", "--images", 0),
            "fitted to .* expected --images above",
        ),
        (("--pruned", 1), r"^error: expected pruned in \(0, 1\), [^()]* got 1\.0$"),
        (("--device", "foo"), "expected a --device that torch can use, got foo"),
        (("--cfg-options", "model.nonsense=1"), "nonsense"),
        (("--reducer", "AttnTopK", "--reducer-options", "signal=rows"), "got 'rows'"),
    ],
)
def test_what_cannot_be_pruned_is_named(
    args: tuple, message: str, dense: tuple[Path, Path], tool: Tool, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=message) as end:
        tool("prune.py", *dense, tmp_path / "out", *args)
    assert len(str(end.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_another_models_checkpoint_and_a_pruned_model_are_named(
    dense: tuple[Path, Path], root: Path, tool: Tool, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="is not a checkpoint of this config"):
        tool("prune.py", write_config(root, "cls", **DENSE), dense[1], tmp_path / "out")
    with pytest.raises(SystemExit, match="expected a backbone without reducer, got"):
        tool("prune.py", write_config(root, "seg"), dense[1], tmp_path / "out")


@pytest.mark.parametrize("progress", [(), ("--progress", 1)])
def test_routers_learn_alone(
    progress: tuple,
    dense: tuple[Path, Path],
    root: Path,
    tool: Tool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes: list[tuple[float, bool]] = []
    forward = CroprViT.forward

    def watch(self: CroprViT, img: torch.Tensor) -> Any:
        result = forward(self, img)
        passes.append((self.progress, self.reducers.training, result[0].requires_grad))
        return result

    monkeypatch.setattr(CroprViT, "forward", watch)
    config = write_config(root, "seg", custom_hooks=[LOSS_HOOK], **CROPR)
    args = ("--load-from", dense[1], "--trainable", "routers", *progress)
    tool("train.py", config, "--work-dir", tmp_path, *args)
    share = progress[1] if progress else 0
    first = (1, False, False)  # the first image is tried before the training
    assert passes == [first] + [(share, True, False)] * 2 + [(1, False, False)] * 2
    before, after = (safe_load(f)["state_dict"] for f in (dense[1], tmp_path / "iter_2.pth"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    states = safe_load(tmp_path / "iter_2.pth")["optimizer"]["state"]
    assert len(states) == sum(".reducers." in name for name in after)

    with pytest.raises(SystemExit, match="expected --trainable routers with --resume"):
        tool("train.py", config, "--work-dir", tmp_path / "b", "--resume", tmp_path / "iter_2.pth")
    other = ("--trainable", "routers", "--progress", 0.5, "--resume", tmp_path / "iter_2.pth")
    with pytest.raises(SystemExit, match=rf"learned with --progress {share}: .* got .* 0\.5"):
        tool("train.py", config, "--work-dir", tmp_path / "b", *other)


@pytest.mark.parametrize(
    ("changes", "args", "message"),
    [
        (dict(custom_hooks=[LOSS_HOOK], **CROPR), (), "routers learn in a trained model"),
        (dict(), ("--load-from", "CKPT"), "losses alone, such as cropr_mm.Cropr, got Variance"),
        (
            dict(custom_hooks=[LOSS_HOOK], model__decode_head__num_convs=1, **CROPR),
            ("--load-from", "CKPT"),
            "expects all else from the checkpoint; . of .* tensors are missing .*decode_head",
        ),
        (
            dict(
                custom_hooks=[LOSS_HOOK, dict(type="cropr_mm.CroprElasticHook")],
                **CROPR,
            ),
            ("--load-from", "CKPT", "--progress", 0.5),
            "CroprElasticHook in custom_hooks decides how much is pruned",
        ),
    ],
)
def test_routers_that_cannot_learn_are_named(
    changes: dict,
    args: tuple,
    message: str,
    dense: tuple[Path, Path],
    root: Path,
    tool: Tool,
    tmp_path: Path,
) -> None:
    args = tuple(dense[1] if arg == "CKPT" else arg for arg in args)
    with pytest.raises(SystemExit, match=message):
        tool(
            *("train.py", write_config(root, "seg", **changes), "--work-dir", tmp_path),
            *("--trainable", "routers", *args),
        )


@pytest.fixture(scope="module")
def elastic(root: Path) -> tuple[Path, Path]:
    """Config of a segmenter that trained at changing shares, with a curriculum for later."""
    hooks = [dict(type="cropr_mm.CroprElasticHook", val_progress=(0.5, 1.0))]
    config, work_dir = write_config(root, "seg", custom_hooks=hooks), root / "elastic"
    from run_tool import run_tool

    run_tool("train.py", config, "--work-dir", work_dir)
    hooks = [dict(type="cropr_mm.CroprCurriculumHook", by_epoch=False)]
    return write_config(root, "seg", custom_hooks=hooks), work_dir / "iter_2.pth"


def test_shares_are_tested_in_one_table(
    elastic: tuple[Path, Path], tool: Tool, tmp_path: Path
) -> None:
    args = (*elastic, "--work-dir", tmp_path)
    printed = tool("test.py", *args, "--progress", 0, 0.5, 1, "--rounds", 5)
    rows = json.loads((tmp_path / "test_progress.json").read_text())["rows"]
    assert [row["pruned"] for row in rows] == [pytest.approx(n / 64) for n in (1, 25, 49)]
    for row in rows:
        tool("test.py", *args, "--progress", row["progress"])
        assert score(tmp_path) == row["metrics"][SCORE], "the command line beats the curriculum"
        numbers = f"{row['metrics'][SCORE]:.4g} .* {row['ms_per_image']:.1f} "
        assert re.search(rf"^{row['progress']:g} .* {numbers}", printed, re.M)
    tool("test.py", *args)
    assert score(tmp_path) == rows[2]["metrics"][SCORE]
    for wrong in ((0.5, 2), (-1,)):
        with pytest.raises(SystemExit, match=r"expected --progress in \[0, 1\], got"):
            tool("test.py", *args, "--progress", *wrong)
    for wrong in ((0.5, 0.5), (0, 1, "--rounds", 0)):
        with pytest.raises(SystemExit, match="--rounds of at least 1 and each share once, got"):
            tool("test.py", *args, "--progress", *wrong)


OTHER_SHARE = r"keeps \{0: 55, 1: 47, 2: 39\} of 8x8 .*which keeps \{0: 47, 1: 31, 2: 15\}"


def test_a_deployed_share_is_that_of_its_schedule(
    elastic: tuple[Path, Path], tool: Tool, tmp_path: Path
) -> None:
    config, _ = elastic
    deployed, half = tmp_path / "half.pth", ("--progress", 0.5)
    printed = tool("deploy.py", *elastic, deployed, *half)
    assert "deploy=True and --progress 0.5" in printed
    work = ("--work-dir", tmp_path, "--cfg-options", "model.backbone.deploy=True")
    tool("test.py", *elastic, "--work-dir", tmp_path, *half)
    expected = score(tmp_path)
    tool("test.py", config, deployed, *half, *work)
    assert score(tmp_path) == expected
    stored = tmp_path / "stored.py"
    stored.write_text(safe_load(deployed)["meta"]["cfg"])
    tool("test.py", stored, deployed, "--work-dir", tmp_path)
    assert score(tmp_path) == expected
    with pytest.raises(SystemExit, match=OTHER_SHARE):
        tool("test.py", config, deployed, *work)
    with pytest.raises(SystemExit, match=r"at --progress 0.25: .*half.pth was deployed with"):
        tool("test.py", config, deployed, "--progress", 0.5, 0.25, *work)


def test_another_share_than_the_deployed_one_is_not_exported(
    elastic: tuple[Path, Path], tool: Tool, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="needs cropr_mm[export]")
    deployed, deploy = tmp_path / "half.pth", ("--cfg-options", "model.backbone.deploy=True")
    tool("deploy.py", *elastic, deployed, "--progress", 0.5)
    export = (elastic[0], deployed, tmp_path / "a.pt2", "--format", "torch")
    with pytest.raises(SystemExit, match=OTHER_SHARE):
        tool("export.py", *export, *deploy)
