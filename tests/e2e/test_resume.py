"""A resumed training is the one that was not interrupted, or says in a line what differs."""

import copy
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import ValLoop
from tiny_tasks import write_config

from cropr_mm.checkpoints import safe_load
from cropr_mm.engine.config import load_config
from cropr_mm.engine.train import train
from cropr_mm.engine.work_folder import lock_folder

AUGMENT = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomCrop", crop_size=64, padding=8),
    dict(type="PackInputs"),
]
EPOCHS = dict(
    train_cfg=dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=3, val_interval=1),
    train_dataloader=dict(sampler=dict(type="DefaultSampler")),
    default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=True)),
)
ITERATIONS = dict(train_cfg=dict(max_iters=6, val_interval=2))
DRAWS: dict[str, dict[str, Any]] = {
    "augmentation": dict(train_dataloader=dict(dataset=dict(pipeline=AUGMENT))),
    "random pruner": dict(model=dict(backbone=dict(reducer=dict(type="cropr_mm.RandomPruner")))),
    "order of images": dict(
        train_dataloader=dict(sampler=dict(shuffle=True)), randomness=dict(seed=None)
    ),
}


def config_of(root: Path, *changes: dict[str, Any]) -> Path:
    """The tiny classifier's config, changed."""
    file = write_config(root, "cls")
    cfg = Config.fromfile(file)
    for change in changes:
        cfg.merge_from_dict(copy.deepcopy(change))
    cfg.train_dataloader.batch_size = 2
    cfg.dump(file)
    return file


def copy_until(folder: Path, target: Path, name: str) -> Path:
    """A copy of a working folder as it was when a checkpoint had been written."""
    target.mkdir()
    shutil.copy(folder / name, target)
    shutil.copy(folder / "random_states.pth", target)
    (target / "last_checkpoint").write_text(str(folder / name))
    return target


def assert_equal(*files: Path) -> None:
    """Two checkpoints have the same weights and states of the optimizer, bit by bit."""
    resumed, whole = map(safe_load, files)
    for part in ("state_dict", "optimizer"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize(
    ("loop", "middle", "end"),
    [(ITERATIONS, "iter_4.pth", "iter_6.pth"), (EPOCHS, "epoch_2.pth", "epoch_3.pth")],
)
def test_random_numbers_go_on(
    loop: dict,
    middle: str,
    end: str,
    draws: str,
    root: Path,
    tool: Callable[..., str],
    tmp_path: Path,
) -> None:
    config = config_of(root, loop, DRAWS[draws])
    tool("train.py", config, "--work-dir", tmp_path / "whole")
    target = copy_until(tmp_path / "whole", tmp_path / "half", middle)
    random.seed(1)
    torch.manual_seed(1)
    output = tool("train.py", config, "--work-dir", target, "--resume")
    assert "start anew" not in output
    assert_equal(tmp_path / "half" / end, tmp_path / "whole" / end)


@pytest.mark.parametrize(
    ("loop", "middle", "end"),
    [(ITERATIONS, "iter_2.pth", "iter_6.pth"), (EPOCHS, "epoch_1.pth", "epoch_3.pth")],
)
def test_random_numbers_of_the_model_go_on_beside_workers_that_outlive_an_epoch(
    loop: dict, middle: str, end: str, root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    workers = dict(num_workers=1, persistent_workers=True)
    loaders = dict(train_dataloader=workers, val_dataloader=workers)
    config = config_of(root, loop, DRAWS["random pruner"], loaders)
    tool("train.py", config, "--work-dir", tmp_path / "whole")
    target = copy_until(tmp_path / "whole", tmp_path / "half", middle)
    output = tool("train.py", config, "--work-dir", target, "--resume")
    assert "random numbers of the data workers start anew" in output
    assert_equal(tmp_path / "half" / end, tmp_path / "whole" / end)


def test_random_numbers_of_workers_of_one_epoch_go_on(
    root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    workers = dict(train_dataloader=dict(num_workers=1), val_dataloader=dict(num_workers=1))
    config = config_of(root, EPOCHS, DRAWS["augmentation"], DRAWS["random pruner"], workers)
    tool("train.py", config, "--work-dir", tmp_path / "whole")
    target = copy_until(tmp_path / "whole", tmp_path / "half", "epoch_1.pth")
    output = tool("train.py", config, "--work-dir", target, "--resume")
    assert "start anew" not in output
    assert_equal(tmp_path / "half/epoch_3.pth", tmp_path / "whole/epoch_3.pth")


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and working folder of a training of four iterations, with two checkpoints."""
    config = write_config(
        root, "cls", train_cfg__max_iters=4, param_scheduler=[dict(type="LinearLR", by_epoch=False)]
    )
    folder = tmp_path_factory.mktemp("trained")
    train(load_config(str(config), str(folder)))
    return config, folder


def changed(trained: tuple[Path, Path], tmp_path: Path, change: Callable[[dict], object]) -> Path:
    """The first checkpoint with another content."""
    content = safe_load(trained[1] / "iter_2.pth")
    change(content)
    torch.save(content, tmp_path / "changed.pth")
    return tmp_path / "changed.pth"


CONTENTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "no optimizer": (lambda c: c.pop("optimizer"), "got a file without optimizer; to start anew"),
    "no schedulers": (lambda c: c.pop("param_schedulers"), "a file without param_schedulers"),
    "other schedulers": (
        lambda c: c["param_schedulers"].append({}),
        "expected the state of 1 param_scheduler entries, got 2",
    ),
    "no logs": (lambda c: c.pop("message_hub"), "a file without message_hub"),
    "no meta": (lambda c: c.pop("meta"), r"expected meta\.iter from 0 to 4, .* got None"),
    "meta of another kind": (lambda c: c.update(meta=3), "expected a dict under 'meta', got int"),
    "negative iteration": (lambda c: c["meta"].update(iter=-5), "from 0 to 4, .* got -5"),
    "huge iteration": (lambda c: c["meta"].update(iter=10**9), "from 0 to 4, .* got 1000000000"),
    "iteration as text": (lambda c: c["meta"].update(iter="2"), "from 0 to 4, .* got '2'"),
    "at the end": (lambda c: c["meta"].update(iter=4), "the end of this training of 4 iterations"),
    "optimizer of other parameters": (
        lambda c: c["optimizer"]["param_groups"].pop(),
        "does not fit the optimizer of this config",
    ),
    "optimizer of another kind": (lambda c: c.update(optimizer=3), "an optimizer, got int"),
    "weights of another kind": (
        lambda c: c["state_dict"].update({"head.fc.bias": torch.ones(2, dtype=torch.int8)}),
        r"got head\.fc\.bias \(torch\.int8 for torch\.float32\)",
    ),
    "weights that are NaN": (
        lambda c: c["state_dict"]["head.fc.bias"].fill_(float("nan")),
        r"1 of 68 weights hold numbers that are infinite or NaN: head\.fc\.bias",
    ),
    "no weights": (lambda c: c.update(state_dict=3), "by name under 'state_dict', got int"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_checkpoint_that_nothing_goes_on_from_is_named(
    case: str, trained: tuple[Path, Path], tool: Callable[..., str], tmp_path: Path
) -> None:
    change, message = CONTENTS[case]
    file = changed(trained, tmp_path, change)
    with pytest.raises(SystemExit, match=message) as end:
        tool("train.py", trained[0], "--work-dir", tmp_path / "work", "--resume", file)
    assert str(end.value).startswith("error: ")
    assert str(file) in str(end.value)
    assert len(str(end.value).splitlines()) <= 2


def test_without_the_state_of_the_curriculum_nothing_goes_on(
    root: Path, trained: tuple[Path, Path], tool: Callable[..., str], tmp_path: Path
) -> None:
    hooks = [dict(type="cropr_mm.CroprCurriculumHook", by_epoch=False)]
    config = write_config(
        root,
        "cls",
        custom_hooks=hooks,
        train_cfg__max_iters=4,
        param_scheduler=[dict(type="LinearLR", by_epoch=False)],
    )
    with pytest.raises(SystemExit, match="a file without cropr_curriculum"):
        tool("train.py", config, "--work-dir", tmp_path, "--resume", trained[1] / "iter_2.pth")


def damage_end(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def damage_middle(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def damage_all(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_end, damage_middle, damage_all, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    damage: Callable[[Path], None],
    trained: tuple[Path, Path],
    tool: Callable[..., str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained[1], folder)
    shutil.copy(folder / "iter_4.pth", folder / "iter_3.pth")
    (folder / "last_checkpoint").write_text(str(folder / "iter_3.pth"))
    (folder / "iter_4.pth").unlink()
    damage(folder / "iter_3.pth")
    output = tool("train.py", trained[0], "--work-dir", folder, "--resume")
    assert "iter_3.pth" in output
    assert f"Load checkpoint from {folder / 'iter_2.pth'}" in output
    assert "Iter(train) [3/4]" in output
    assert "Iter(train) [2/4]" not in output


def test_only_damaged_checkpoints_are_an_error(
    trained: tuple[Path, Path], tool: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("iter_2.pth", "iter_4.pth"):
        (tmp_path / name).write_bytes(b"half")
    with pytest.raises(SystemExit, match=r"expected a whole checkpoint in .*, got none: .*iter_4"):
        tool("train.py", trained[0], "--work-dir", tmp_path, "--resume")


def test_a_copied_folder_goes_on_from_its_own_checkpoint(
    trained: tuple[Path, Path], tool: Callable[..., str], tmp_path: Path
) -> None:
    folder = copy_until(trained[1], tmp_path / "copy", "iter_2.pth")
    output = tool("train.py", trained[0], "--work-dir", folder, "--resume")
    assert f"Load checkpoint from {folder / 'iter_2.pth'}" in output


def test_a_training_anew_leaves_the_checkpoints_of_the_last_one(
    trained: tuple[Path, Path], tool: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained[1], folder)
    content = (folder / "iter_4.pth").read_bytes()
    output = tool("train.py", trained[0], "--work-dir", folder)
    (earlier,) = folder.glob("earlier_*")
    assert f"Checkpoints of an earlier training in {folder} are now in {earlier}." in output
    assert (earlier / "iter_4.pth").read_bytes() == content
    assert (folder / "iter_4.pth").is_file()


def hold(folder: Path, locked: Event) -> None:
    """Train for ever, as far as others see."""
    with lock_folder(folder):
        locked.set()
        time.sleep(600)


def test_two_trainings_do_not_share_a_folder(
    trained: tuple[Path, Path], tool: Callable[..., str], tmp_path: Path
) -> None:
    fork = multiprocessing.get_context("fork")
    locked = fork.Event()
    process = fork.Process(target=hold, args=(tmp_path, locked))
    process.start()
    try:
        assert locked.wait(60)
        message = f"another training writes to .*process {process.pid} on .*another --work-dir"
        with pytest.raises(SystemExit, match=message):
            tool("train.py", trained[0], "--work-dir", tmp_path)
    finally:
        process.kill()
        process.join()
    with lock_folder(tmp_path):  # a killed training locks nothing
        pass


def test_a_checkpoint_from_within_an_epoch_is_named(
    root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False))
    config = config_of(root, EPOCHS, dict(default_hooks=hooks))
    tool("train.py", config, "--work-dir", tmp_path / "first")
    file = tmp_path / "first/iter_3.pth"
    output = tool("train.py", config, "--work-dir", tmp_path / "second", "--resume", file)
    assert (
        "from within epoch 2, 1 iterations after its start, and a loop of epochs repeats" in output
    )


def test_random_numbers_that_cannot_go_on_are_named(
    trained: tuple[Path, Path], tool: Callable[..., str], tmp_path: Path
) -> None:
    folder = copy_until(trained[1], tmp_path / "copy", "iter_2.pth")
    (folder / "random_states.pth").unlink()
    output = tool("train.py", trained[0], "--work-dir", folder, "--resume")
    assert "random numbers start anew" in output
    folder = copy_until(trained[1], tmp_path / "workers", "iter_2.pth")
    options = ("--cfg-options", "train_dataloader.num_workers=1")
    output = tool("train.py", trained[0], "--work-dir", folder, "--resume", *options)
    assert "random numbers of the data workers start anew, those of the model go on" in output


class KilledError(Exception):
    """The end of a process in a validation."""


@pytest.mark.parametrize(
    ("loop", "iteration", "name", "end"),
    [
        (ITERATIONS, 4, "iter_4.pth", "iter_6.pth"),
        (ITERATIONS, 6, "iter_6.pth", "iter_6.pth"),
        (EPOCHS, 4, "epoch_2.pth", "epoch_3.pth"),
    ],
)
def test_a_validation_that_did_not_end_starts_anew(
    loop: dict,
    iteration: int,
    name: str,
    end: str,
    root: Path,
    tool: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(root, loop, DRAWS["random pruner"])
    run, run_iter, metrics = ValLoop.run, ValLoop.run_iter, []
    monkeypatch.setattr(ValLoop, "run", lambda loop: metrics.append(run(loop)))
    tool("train.py", config, "--work-dir", tmp_path / "whole")
    wanted = metrics.copy()
    metrics.clear()

    def run_until(loop: ValLoop, idx: int, data_batch: Any) -> None:
        run_iter(loop, idx, data_batch)  # draws numbers
        if loop.runner.iter == iteration:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(ValLoop, "run_iter", run_until)
        with pytest.raises(KilledError):
            tool("train.py", config, "--work-dir", tmp_path / "half")
    output = tool("train.py", config, "--work-dir", tmp_path / "half", "--resume")
    assert f"the validation after {name} did not end: it starts anew" in output
    assert metrics == wanted
    assert_equal(tmp_path / "half" / end, tmp_path / "whole" / end)


def test_a_validation_that_was_not_due_does_not_start(
    trained: tuple[Path, Path], tool: Callable[..., str], tmp_path: Path
) -> None:
    folder = copy_until(trained[1], tmp_path / "copy", "iter_2.pth")
    states = safe_load(folder / "random_states.pth")
    states["iter_2.pth"][0]["validated"] = False
    torch.save(states, folder / "random_states.pth")
    options = ("--cfg-options", "train_cfg.val_interval=4")
    output = tool("train.py", trained[0], "--work-dir", folder, "--resume", *options)
    assert "did not end" not in output
