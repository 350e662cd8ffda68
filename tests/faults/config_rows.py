"""Faults of configs: files, entries, schedules, optimizers, and what only other packages give."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

from row import Row
from tiny import tiny_config, train_tiny, training

from cropr_mm.engine.config import load_config
from cropr_mm.engine.train import train


def _text(folder: Path, text: str, name: str = "broken.py") -> None:
    """Train a config file of this text."""
    (folder / name).write_text(text)
    train(load_config(str(folder / name), str(folder / "run")))


def _added(folder: Path, text: str) -> None:
    """Train with lines added to the config."""
    config = tiny_config(folder, "cls")
    config.write_text(f"{config.read_text()}\n{text}")
    train(load_config(str(config), str(folder / "run")))


def _without(folder: Path, package: str, backend: str) -> None:
    """Train with logs for a package that is not there, whether it is or not."""
    names = (package, f"torch.utils.{package}")
    present = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.modules.update(dict.fromkeys(names))
    try:
        train_tiny(folder, "cls", visualizer__vis_backends=[dict(type=backend)])
    finally:  # what was imported meanwhile stays
        for name in names:
            del sys.modules[name]
        sys.modules.update(present)


def _frozen(folder: Path) -> str:
    console = io.StringIO()
    with redirect_stdout(console), redirect_stderr(console):
        train_tiny(
            folder,
            "cls",
            model__backbone__frozen_stages=4,
            optim_wrapper__paramwise_cfg=dict(norm_decay_mult=0.0),
            optim_wrapper__optimizer__weight_decay=0.05,
        )
    print(console.getvalue())
    lines = console.getvalue().splitlines()
    assert len(lines) < 20
    return "no line for each frozen weight"


FILES, ENTRIES = "Config files", "Entries of configs"
ROWS = [
    Row(name, FILES, fault, says, run)
    for name, fault, says, run in (
        (
            "config-circle",
            "`_base_` names the file itself",
            r"_base_ goes in a circle: .*broken\.py -> .*broken\.py",
            partial(_text, text='_base_ = "./broken.py"\n'),
        ),
        (
            "config-syntax",
            "a bracket is open",
            r"broken\.py, line 1: '\(' was never closed",
            partial(_text, text="model = dict(\n"),
        ),
        (
            "config-name",
            "an undefined name",
            r"broken\.py, line 1: NameError: .*nothing_there",
            partial(_text, text="model = nothing_there\n"),
        ),
        (
            "config-yaml",
            "broken YAML",
            r"broken\.yaml: ParserError",
            partial(_text, text="model: [a, {b\n", name="broken.yaml"),
        ),
        (
            "config-json",
            "broken JSON",
            r"broken\.json: JSONDecodeError",
            partial(_text, text='{"model": ', name="broken.json"),
        ),
        (
            "config-suffix",
            "a text file",
            r"expected a config file with suffix .*, got .*broken\.txt",
            partial(_text, text="model", name="broken.txt"),
        ),
        (
            "config-base",
            "a missing `_base_`",
            r"expected the config of _base_, found none at .*none\.py",
            partial(_text, text='_base_ = "./none.py"\n'),
        ),
        (
            "config-empty",
            "an empty file",
            "expected entries model, train_dataloader, train_cfg, optim_wrapper, got none",
            partial(_text, text=""),
        ),
        ("config-binary", "not a text", r"broken\.py: .*null bytes", partial(_text, text="\0\0")),
        (
            "config-number",
            "model is a number",
            r"expected model=dict\(\.\.\.\), got 3",
            partial(
                _text, text="model = 3\ntrain_dataloader = 3\ntrain_cfg = 3\noptim_wrapper = 3\n"
            ),
        ),
        (
            "config-scope",
            "default_scope is unknown",
            "expected default_scope of an installed library, got 'mmdte'",
            partial(_added, text='default_scope = "mmdte"\n'),
        ),
    )
]
ROWS += [
    Row(name, ENTRIES, fault, says, run)
    for name, fault, says, run in (
        (
            "entry-unknown",
            "`train_dataloder`",
            "nothing reads train_dataloder in the config",
            partial(_added, text="train_dataloder = dict(batch_size=1)\n"),
        ),
        (
            "batch-zero",
            "batch size 0",
            r"train_dataloader\.batch_size: expected a whole number >= 1, got 0",
            training(train_dataloader__batch_size=0),
        ),
        (
            "batch-negative",
            "batch size -2",
            r"train_dataloader\.batch_size: expected a whole number >= 1, got -2",
            training(train_dataloader__batch_size=-2),
        ),
        (
            "batch-float",
            "batch size 2.5",
            r"train_dataloader\.batch_size: expected a whole number >= 1, got 2\.5",
            training(train_dataloader__batch_size=2.5),
        ),
        (
            "workers-negative",
            "-1 workers",
            r"train_dataloader\.num_workers: expected a whole number >= 0, got -1",
            training(train_dataloader__num_workers=-1),
        ),
        (
            "iters-zero",
            "0 iterations",
            r"train_cfg\.max_iters: expected a whole number >= 1, got 0",
            training(train_cfg__max_iters=0),
        ),
        (
            "iters-negative",
            "-4 iterations",
            r"train_cfg\.max_iters: expected a whole number >= 1, got -4",
            training(train_cfg__max_iters=-4),
        ),
        (
            "iters-float",
            "2.5 iterations",
            r"train_cfg\.max_iters: expected a whole number >= 1, got 2\.5",
            training(train_cfg__max_iters=2.5),
        ),
        (
            "epochs-zero",
            "0 epochs",
            r"train_cfg\.max_epochs: expected a whole number >= 1, got 0",
            training(train_cfg=dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=0)),
        ),
        (
            "epochs-endless",
            "epochs on a sampler without an end",
            "InfiniteSampler never ends",
            training(train_cfg=dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=1)),
        ),
        (
            "loader-argument",
            "`train_dataloader.batchsize`",
            "unexpected keyword argument 'batchsize'",
            training(train_dataloader__batchsize=4),
        ),
        (
            "pack",
            "a pipeline that packs nothing",
            "batches have no 'inputs'",
            training("det", train_dataloader__dataset__pipeline=[dict(type="LoadImageFromFile")]),
        ),
        (
            "val-zero",
            "validation every 0 iterations",
            r"train_cfg\.val_interval: expected a whole number >= 1, got 0",
            training(train_cfg__val_interval=0),
        ),
        (
            "accumulate-zero",
            "gradients of 0 steps",
            r"optim_wrapper\.accumulative_counts: expected a whole number >= 1, got 0",
            training(optim_wrapper__accumulative_counts=0),
        ),
        (
            "type-model",
            "an unknown model",
            "ImageClasifier is not in the .*registry",
            training(model__type="ImageClasifier"),
        ),
        (
            "type-backbone",
            "an unknown backbone",
            r"CroprVit is not in the .*nearest name .* is cropr_mm\.CroprViT",
            training(model__backbone__type="cropr_mm.CroprVit"),
        ),
        (
            "type-reducer",
            "an unknown reducer",
            "Crop is not in the .*registry",
            training(model__backbone__reducer__type="cropr_mm.Crop"),
        ),
        (
            "type-hook",
            "an unknown hook",
            "NoHook is not in the .*registry",
            training(custom_hooks=[dict(type="NoHook")]),
        ),
        (
            "type-dataset",
            "an unknown data set",
            "CustomDatasets is not in the .*registry",
            training(train_dataloader__dataset__type="CustomDatasets"),
        ),
        (
            "type-transform",
            "an unknown transform",
            "PackInput is not in the .*registry",
            training(
                train_dataloader__dataset__pipeline=[
                    dict(type="LoadImageFromFile"),
                    dict(type="PackInput"),
                ]
            ),
        ),
        (
            "type-metric",
            "an unknown metric",
            "Acuracy is not in the .*registry",
            training(val_evaluator__type="Acuracy"),
        ),
        (
            "argument-backbone",
            "an unknown argument",
            "unexpected keyword argument 'fusions'; CroprViT takes arch, ",
            training(model__backbone__fusions=3),
        ),
        (
            "arch-unknown",
            "an unknown architecture",
            "arch 'vit_lage' is none of the .* nearest: ",
            training(model__backbone__arch="vit_lage"),
        ),
        (
            "drop-path",
            "drop_path_rate 2",
            r"drop_path_rate must be in \[0, 1\).* got 2\.0",
            training(model__backbone__drop_path_rate=2.0),
        ),
        (
            "img-size",
            "image size -16",
            "img_size must be one or two whole numbers",
            training(model__backbone__img_size=-16),
        ),
        (
            "img-size-huge",
            "image size 1000000",
            "config is too large",
            training(model__backbone__img_size=1000000),
        ),
        (
            "out-index",
            "an output of a block that is not there",
            r"out_indices must be ascending blocks of 0\.\.4, got \[9\]",
            training(model__backbone__out_indices=[9]),
        ),
        (
            "load-from-url",
            "load_from without network",
            "nowhere.invalid/a.pth cannot be downloaded",
            training(load_from="https://nowhere.invalid/a.pth"),
        ),
        (
            "load-from-none",
            "load_from is missing",
            r"expected a checkpoint file, found none at .*none\.pth",
            training(load_from="none.pth"),
        ),
        (
            "init-cfg",
            "init_cfg of another kind",
            r"init_cfg must be dict\(type='Pretrained'",
            training(model__backbone__init_cfg=dict(type="Kaiming")),
        ),
        (
            "tensorboard",
            "tensorboard is not installed",
            "pip install future tensorboard",
            partial(_without, package="tensorboard", backend="TensorboardVisBackend"),
        ),
        (
            "wandb",
            "wandb is not installed",
            "pip install wandb",
            partial(_without, package="wandb", backend="WandbVisBackend"),
        ),
        (
            "size-divisor",
            "size_divisor in a child config",
            "expected size or size_divisor, .* sets size=None",
            training("seg", model__data_preprocessor__size_divisor=16),
        ),
    )
]
ROWS.append(Row("frozen", ENTRIES, "frozen stages", "Trained", _frozen, expected="recovered"))
