"""Faults of checkpoints, resumed trainings, numbers that are not finite, and outputs."""

import logging
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from row import Row
from tiny import tiny_config, train_tiny

from cropr_mm import CroprViT
from cropr_mm.checkpoints import safe_load
from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.train import train
from cropr_mm.export.deploy import deploy_checkpoint
from cropr_mm.hooks.finite_loss_hook import NonFiniteError
from cropr_mm.reducers import Cropr

Change = Callable[[dict[str, Any]], object]


@cache
def _training() -> TemporaryDirectory:
    """A training of four iterations in 'run', with checkpoints of two and four, for all rows."""
    kept = TemporaryDirectory()
    folder = Path(kept.name)
    config = tiny_config(folder, "cls", train_cfg__max_iters=4)
    train(load_config(str(config), str(folder / "run")))
    config.rename(folder / "config.py")
    return kept


def _trained(folder: Path) -> Path:
    """Config of the training, which is copied to the folder; its images stay where they are."""
    first = Path(_training().name)
    shutil.copytree(first / "run", folder / "run")
    return Path(shutil.copy(first / "config.py", folder))


def _changed(folder: Path, change: Change) -> Path:
    content = safe_load(folder / "run/iter_2.pth")
    change(content)
    torch.save(content, folder / "changed.pth")
    return folder / "changed.pth"


def _resume(folder: Path, change: Change) -> None:
    config = _trained(folder)
    file = _changed(folder, change)
    train(load_config(str(config), str(folder / "resumed")), str(file))


def _other_optimizer(folder: Path) -> None:
    config = _trained(folder)
    options = {"optim_wrapper.optimizer": dict(_delete_=True, type="SGD", lr=0.1)}
    cfg = load_config(str(config), str(folder / "resumed"), options=options)
    train(cfg, str(folder / "run/iter_2.pth"))


def _test(folder: Path, change: Change) -> None:
    config = _trained(folder)
    file = _changed(folder, change)
    evaluate(load_config(str(config), str(folder / "test")), str(file))


def _deploy(folder: Path, change: Change) -> None:
    config = _trained(folder)
    cfg = load_config(str(config))
    deploy_checkpoint(cfg, _changed(folder, change), folder / "deployed.pth")


def _damaged(folder: Path, size: int) -> str:
    config = _trained(folder)
    newest = folder / "run/iter_4.pth"
    newest.write_bytes(newest.read_bytes()[:size])
    newest.rename(folder / "run/iter_3.pth")
    (folder / "run/last_checkpoint").write_text(str(folder / "run/iter_3.pth"))
    train(load_config(str(config), str(folder / "run")), "auto")
    assert safe_load(folder / "run/iter_4.pth")["meta"]["iter"] == 4
    return "went on from iteration 2 to 4"


def _copied(folder: Path) -> str:
    config = _trained(folder)
    shutil.copytree(folder / "run", folder / "copy")
    (folder / "copy/last_checkpoint").write_text(str(folder / "run/iter_2.pth"))
    shutil.rmtree(folder / "run")
    cfg = load_config(str(config), str(folder / "copy"))
    cfg.log_level = "INFO"
    train(cfg, "auto")
    return "went on from the copy"


def _anew(folder: Path) -> str:
    config = _trained(folder)
    before = (folder / "run/iter_4.pth").read_bytes()
    train(load_config(str(config), str(folder / "run")))
    (earlier,) = (folder / "run").glob("earlier_*")
    assert (earlier / "iter_4.pth").read_bytes() == before
    return "the earlier checkpoint is the same byte by byte"


def _huge_rate(folder: Path) -> None:
    try:
        train_tiny(
            folder,
            "cls",
            train_cfg__max_iters=8,
            optim_wrapper__optimizer=dict(type="SGD", lr=1e30),
        )
    except NonFiniteError as error:  # tools/train.py takes it for a fault too
        raise SetupError(str(error)) from error


def _other_form(deploy: bool) -> None:
    Cropr(8, deploy=deploy).load_state_dict(Cropr(8, deploy=not deploy).state_dict())


def _deployed_for_training(folder: Path) -> None:
    try:
        _other_form(deploy=False)
    except RuntimeError as error:  # whoever loads
        raise SetupError(str(error)) from error


def _image(folder: Path, image: torch.Tensor) -> None:
    arch = dict(embed_dim=16, depth=1, num_heads=2, patch_size=8, img_size=32)
    try:
        CroprViT(arch=arch)(image)
    except ValueError as error:
        raise SetupError(str(error)) from error


def _work_dir_is_a_file(folder: Path) -> None:
    (folder / "run").touch()
    train_tiny(folder, "cls")


def _out_is_a_folder(folder: Path) -> None:
    config = _trained(folder)
    (folder / "out.pkl").mkdir()
    cfg = load_config(str(config), str(folder / "test"))
    evaluate(cfg, str(folder / "run/iter_2.pth"), out=str(folder / "out.pkl"))


@HOOKS.register_module(force=True)
class FillDisk(Hook):
    """A disk on which a file finds no room from the first iteration on.

    Args:
        file: Its path in the working folder; {} stands for the time of the start.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        file = Path(runner.work_dir, self.file.format(runner.timestamp))
        file.unlink(missing_ok=True)
        file.symlink_to("/dev/full")
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.stream = None  # is opened again


def _full_disk(folder: Path, file: str) -> None:
    train_tiny(
        folder,
        "cls",
        custom_hooks=[dict(type="FillDisk", file=file)],
        visualizer__vis_backends=[dict(type="LocalVisBackend")],
    )


def _teacher(folder: Path) -> None:
    config = tiny_config(folder, "det")
    cfg = Config.fromfile(config)
    cfg.model = dict(type="SoftTeacher", detector=cfg.model, semi_train_cfg=dict())
    cfg.dump(config)
    train(load_config(str(config), str(folder / "run")))


def _drop(name: str) -> Change:
    return lambda content: content.pop(name)


def _meta(**values: Any) -> Change:
    return lambda content: content["meta"].update(values)


def _bias(value: torch.Tensor) -> Change:
    return lambda content: content["state_dict"].update({"head.fc.bias": value})


def _content(value: Any) -> Change:
    return lambda content: content.update(state_dict=value)


NAN = torch.full((2,), float("nan"))
BYTES = torch.ones(2, dtype=torch.int8)
COMPLEX = torch.ones(2, dtype=torch.complex64)
RESUME, WEIGHTS = "Going on with a training", "Weights"
TRAIN, OUTPUTS, MODEL = "Training", "Outputs", "Model and images"
ROWS = [
    Row(name, RESUME, fault, says, partial(_resume, change=change))
    for name, fault, says, change in (
        ("resume-no-optimizer", "no optimizer state", "without optimizer", _drop("optimizer")),
        ("resume-no-logs", "no logs", "without message_hub", _drop("message_hub")),
        ("resume-negative", "iteration -5", "got -5", _meta(iter=-5)),
        ("resume-huge", "iteration 1e9", "got 1000000000", _meta(iter=10**9)),
        ("resume-text", "iteration is text", "got 'two'", _meta(iter="two")),
        ("resume-end", "nothing is left to train", "nothing is left", _meta(iter=4)),
        ("resume-nan", "a weight is NaN", "infinite or NaN", _bias(NAN)),
    )
]
ROWS += [
    Row(
        f"resume-{name}",
        RESUME,
        fault,
        "iter_3.pth",
        partial(_damaged, size=size),
        expected="recovered",
    )
    for name, fault, size in (
        ("cut", "the newest checkpoint is cut", 2000),
        ("empty", "the newest checkpoint is empty", 0),
    )
]
ROWS += [
    Row(
        "resume-copy",
        RESUME,
        "a copied folder",
        "Load checkpoint from .*copy/iter_2",
        _copied,
        expected="recovered",
    ),
    Row(
        "train-anew",
        RESUME,
        "a training anew in an old folder",
        "earlier training",
        _anew,
        expected="recovered",
    ),
    Row(
        "resume-optimizer",
        RESUME,
        "AdamW's state for SGD",
        "SGD with .*momentum.*, got that of another optimizer with .*betas",
        _other_optimizer,
    ),
    Row("train-diverges", TRAIN, "learning rate 1e30", "not finite", _huge_rate),
    Row(
        "work-dir-file",
        OUTPUTS,
        "the work folder is a file",
        "expects a folder",
        _work_dir_is_a_file,
    ),
    *(
        Row(
            f"disk-{name}",
            OUTPUTS,
            f"the disk is full when {what} is written",
            f"No space left on device: .*{says}",
            partial(_full_disk, file=file),
        )
        for name, what, says, file in (
            ("log", "the log", r"\.log'", "{0}/{0}.log"),
            ("scalars", "a loss", r"scalars\.json'", "{}/vis_data/scalars.json"),
            ("checkpoint", "a checkpoint", r"iter_2\.pth'", ".iter_2.pth.tmp"),
        )
    ),
    Row("out-folder", OUTPUTS, "--out is a folder", "--out expects a file", _out_is_a_folder),
    Row(
        "deployed-weights",
        MODEL,
        "deployed weights in a model for training",
        "belongs to a deployed checkpoint",
        _deployed_for_training,
    ),
    Row("soft-teacher", MODEL, "a semi-supervised wrapper", "several lists", _teacher),
]
ROWS += [
    Row(
        f"image-{name}",
        MODEL,
        fault,
        r"expected images of shape \(B, 3, H, W\)",
        partial(_image, image=image),
    )
    for name, fault, image in (
        ("gray", "gray images", torch.zeros(1, 1, 32, 32)),
        ("four", "images of four channels", torch.zeros(1, 4, 32, 32)),
        ("chw", "one image without a batch", torch.zeros(3, 32, 32)),
        ("bytes", "images of bytes", torch.zeros(1, 3, 32, 32, dtype=torch.uint8)),
    )
]
ROWS += [
    Row(f"{tool}-{name}", WEIGHTS, f"{fault}, {tool}", says, partial(run, change=change))
    for tool, run in (("test", _test), ("deploy", _deploy))
    for name, fault, says, change in (
        ("nan", "a weight is NaN", "infinite or NaN", _bias(NAN)),
        ("int8", "weights of int8", "int8 for torch.float32", _bias(BYTES)),
        ("complex", "complex weights", "complex64 for torch.float32", _bias(COMPLEX)),
        ("number", "state_dict is a number", "got int", _content(3)),
        ("empty", "no weights", "got nothing", _content({})),
        ("meta", "meta is a number", "dict under 'meta'", lambda c: c.update(meta=3)),
    )
]
