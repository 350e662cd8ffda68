"""What a config file that cannot be read is told, and entries that nothing reads."""

import warnings
from argparse import ArgumentParser
from pathlib import Path

import pytest
from mmengine.config import Config

from cropr_mm.engine.cfg_options import ConfigOptions
from cropr_mm.engine.config import load_config
from cropr_mm.engine.config_file import read_config
from cropr_mm.engine.distributed import check_launcher
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.preflight.entries import (
    check_loops,
    check_optimizer,
    check_scope,
    warn_of_idle_schedules,
    warn_of_unknown_entries,
)


def write(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return str(folder / f"{next(iter(files))}.py")


def test_bases_in_a_circle_are_all_named(tmp_path: Path) -> None:
    path = write(tmp_path, a='_base_ = ["./b.py"]', b='_base_ = "./c.py"', c='_base_ = "b.py"')
    with pytest.raises(SetupError, match=r"circle: \S+b.py -> \S+c.py -> \S+b.py$"):
        read_config(path)


def test_two_ways_to_one_base_are_no_circle(tmp_path: Path) -> None:
    path = write(
        tmp_path, a='_base_ = ["./b.py", "./c.py"]', b='_base_ = "./d.py"', c="y = 2", d="x = 1"
    )
    assert (read_config(path).x, read_config(path).y) == (1, 2)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("x = 1\ny = (", r"b.py, line 2: '\(' was never closed"),
        ("x = 1\ny = nothing\n", "b.py, line 2: NameError: name 'nothing'"),
        ("\0", "b.py"),
    ],
)
def test_mistakes_in_a_base_are_placed(base: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=message):
        read_config(write(tmp_path, a='_base_ = "./b.py"', b=base))


def test_variables_of_mmengine_are_no_mistakes(tmp_path: Path) -> None:
    text = "_base_ = '{{ fileDirname }}/b.py'\nz = {{_base_.x}}\n"
    cfg = read_config(write(tmp_path, a=text, b="x = 1"))
    assert (cfg.x, cfg.z) == (1, 1)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("train_dataloder", "train_dataloader"), ("custom_hook", "custom_hooks")],
)
def test_names_near_those_of_entries_are_questioned(name: str, meant: str) -> None:
    with pytest.warns(UserWarning, match=f"nothing reads {name} .*{meant}"):
        warn_of_unknown_entries({name: 1})


def test_variables_of_configs_pass() -> None:
    names = ("train_pipeline", "test_pipeline", "oi_backend_args", "val_evaluator_abs", "rgb_mean")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unknown_entries(dict.fromkeys((*names, "train_dataloader")))


def test_schedules_of_epochs_need_a_loop_of_epochs() -> None:
    schedules = [dict(type="CosineAnnealingLR"), dict(type="LinearLR", by_epoch=False)]
    schedules.append(dict(type="PolyLR", convert_to_iter_based=True))
    loop = dict(type="IterBasedTrainLoop", max_iters=2)
    with pytest.warns(UserWarning, match="CosineAnnealingLR counts epochs") as warned:
        warn_of_idle_schedules(dict(train_cfg=loop, param_scheduler=schedules))
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = dict(type="EpochBasedTrainLoop", max_epochs=2)
        warn_of_idle_schedules(dict(train_cfg=loop, param_scheduler=schedules))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(val_dataloader=dict(batch_size=0)), "val_dataloader.batch_size: .* >= 1, got 0"),
        (dict(train_cfg=dict(max_iters=2.5)), "train_cfg.max_iters: .* >= 1, got 2.5"),
        (dict(optim_wrapper=dict(accumulative_counts=0)), "accumulative_counts: .* got 0"),
    ],
)
def test_impossible_numbers_are_named(cfg: dict, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        check_loops(Config(cfg), ("train", "val"))


def test_loops_that_do_not_run_are_not_looked_at() -> None:
    check_loops(Config(dict(train_cfg=dict(max_iters=0), train_dataloader=None)), ("test",))


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (dict(type="OptimWrapper"), "expected optimizer="),
        (dict(optimizer=dict(type="Adamw", lr=1.0)), "'Adamw'"),
        (dict(optimizer=dict(type="AdamW", lr="1e-3")), "number, got '1e-3'"),
    ],
)
def test_optimizers_are_looked_up(wrapper: dict, message: str) -> None:
    check_optimizer(dict(optimizer=dict(type="AdamW", lr=1e-3)))
    with pytest.raises(SetupError, match=message):
        check_optimizer(wrapper)


def test_scopes_are_libraries() -> None:
    check_scope("mmengine", "a.py")
    with pytest.raises(SetupError, match="'mmdte'"):
        check_scope("mmdte", "a.py")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hooks.7.type": "A"}, "hooks.7.type=A do not fit .*7"),
        ({"custom_hooks.0.type": "A"}, r"expected custom_hooks=\["),
    ],
)
def test_options_that_fit_no_list_are_named(options: dict, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, a="hooks = [dict(type='B')]")
    with pytest.raises(SetupError, match=message):
        load_config(path, options=options)


def test_options_without_a_value_end_in_usage(capsys: pytest.CaptureFixture) -> None:
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=ConfigOptions)
    assert parser.parse_args(["--cfg-options", "a=1", "b=x=2"]).cfg_options == dict(a=1, b="x=2")
    with pytest.raises(SystemExit):
        parser.parse_args(["--cfg-options", "a=1", "b"])
    assert "--cfg-options expects KEY=VALUE, got b" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser.parse_args(["--cfg-options", "a=[dict(b='c',d=1)]"])
    assert "cannot read a=[dict(b='c',d=1)]" in capsys.readouterr().err


def test_a_launcher_has_started_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launcher("none")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(SetupError, match=r"'pytorch' .*not set: MASTER_PORT$"):
        check_launcher("pytorch")
    monkeypatch.setenv("MASTER_PORT", "0")
    check_launcher("pytorch")
