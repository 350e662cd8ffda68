"""A checkpoint is whole or not there, and an old one goes only once a new one is whole."""

import errno
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from toy_runner import Score, toy_runner, weights

from cropr_mm.checkpoints.atomic import AtomicBackend, replacing


def test_checkpoints_and_their_note(tmp_path: Path) -> None:
    toy_runner(tmp_path).train()
    assert sorted(file.name for file in tmp_path.glob("*.pth")) == ["iter_6.pth", "iter_8.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_8.pth")
    assert list(tmp_path.glob(".*.tmp")) == []
    assert weights(tmp_path / "iter_8.pth").shape == (1, 2)


class Folder(Hook):
    """Notes which checkpoints are there whenever one is about to be written."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        self.seen.append(sorted(file.name for file in Path(runner.work_dir).glob("*.pth")))


def test_the_old_checkpoint_goes_last(tmp_path: Path) -> None:
    folder = Folder()
    toy_runner(tmp_path, custom_hooks=[folder]).train()
    assert folder.seen[-1] == ["iter_4.pth", "iter_6.pth"]  # when iter_8 was to be written


@pytest.mark.parametrize("kept", [1, 2])
def test_a_full_disk_leaves_the_old_checkpoint(
    kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = toy_runner(tmp_path)
    runner.hooks[-1].max_keep_ckpts = kept
    write = Path.write_bytes

    def full(file: Path, data: bytes) -> int:
        if "iter_6" in file.name:
            write(file, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return write(file, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        runner.train()
    names = sorted(file.name for file in tmp_path.glob("*.pth"))
    assert names == ["iter_2.pth", "iter_4.pth"][-kept:]
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_4.pth")
    assert list(tmp_path.glob(".*.tmp")) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".iter_4.pth.tmp").write_bytes(b"half")
    toy_runner(tmp_path).train()
    assert list(tmp_path.glob(".*.tmp")) == []


def test_the_best_checkpoint_is_replaced_by_a_whole_one(tmp_path: Path) -> None:
    folder = Folder()
    runner = toy_runner(
        tmp_path,
        train_cfg=dict(by_epoch=False, max_iters=4, val_interval=2),
        val_dataloader=toy_runner(tmp_path)._train_dataloader,
        val_cfg=dict(),
        val_evaluator=Evaluator([Score()]),
        custom_hooks=[folder],
    )
    checkpoint = next(hook for hook in runner.hooks if hasattr(hook, "save_best"))
    checkpoint.__init__(
        interval=2, by_epoch=False, max_keep_ckpts=2, save_best="acc", rule="greater"
    )
    runner.train()
    assert [file.name for file in tmp_path.glob("best_*.pth")] == ["best_acc_iter_4.pth"]
    assert any("best_acc_iter_2.pth" in seen for seen in folder.seen[-2:-1])


def test_a_file_is_replaced_only_when_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with suppress(ZeroDivisionError), replacing(file) as temporary:
        temporary.write_text("ne")
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"
    with replacing(file) as temporary:
        temporary.write_text("new")
    assert file.read_text() == "new"


def test_removals_come_last_and_spare_what_was_written_anew(tmp_path: Path) -> None:
    backend, other, same = AtomicBackend(), tmp_path / "other", tmp_path / "same"
    for file in (other, same):
        file.write_text("old")
    with backend.removals_last():
        backend.remove(other)
        backend.remove(same)
        backend.put(b"new", same)
        assert other.exists()
    assert not other.exists()
    assert same.read_bytes() == b"new"


def test_content_is_that_of_mmengine(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    AtomicBackend().put(buffer.getvalue(), tmp_path / "deep" / "a.pth")
    torch.testing.assert_close(torch.load(tmp_path / "deep" / "a.pth")["a"], torch.ones(2))
