"""Outputs that cannot be written are named before work starts."""

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from cropr_mm.engine import distributed
from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight import SetupError, check_model_config


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    check_writable("--out", tmp_path / "new" / "a.pkl")
    check_writable("--work-dir", tmp_path / "new" / "deep", folder=True)
    (tmp_path / "old").write_text("old")
    check_writable("--out", tmp_path / "old")
    assert [file.name for file in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_other_things_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="--out expects a file, got the folder"):
        check_writable("--out", tmp_path)
    with pytest.raises(SetupError, match="--work-dir expects a folder, got the file"):
        check_writable("--work-dir", tmp_path / "file", folder=True)
    with pytest.raises(SetupError, match=r"--out .* cannot be written: Not a directory"):
        check_writable("--out", tmp_path / "file" / "a.pkl")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_full_and_read_only_disks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(SetupError, match=r"--out .*a.pkl cannot be written: no"):
        check_writable("--out", tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        (None, True),
        (dict(type="MMDistributedDataParallel"), True),
        (dict(type="MMFullyShardedDataParallel"), False),
    ],
)
def test_only_distributed_data_parallel_gets_device_ids(
    wrapper: dict | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("is_distributed", "_leave_processes"):
        monkeypatch.setattr(distributed, name, lambda: False)
    monkeypatch.setattr(distributed, "get_device", lambda: "cpu")
    monkeypatch.setattr(distributed.torch.distributed, "init_process_group", lambda kind: None)
    cfg = Config(dict(launcher="pytorch", model_wrapper_cfg=wrapper))
    distributed.join_processes_on_cpu(cfg)
    assert ("device_ids" in cfg.model_wrapper_cfg) == expected


def test_student_and_teacher_are_refused() -> None:
    detector = dict(type="FCOS", backbone=dict(type="cropr_mm.CroprViT"))
    with pytest.raises(SetupError, match="SoftTeacher runs its encoder on several lists"):
        check_model_config(dict(type="SoftTeacher", detector=detector, semi_train_cfg=dict()))
