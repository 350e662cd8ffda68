"""A file that cannot be loaded is named in one line, from worker processes too."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset, ConcatDataset
from torch.utils.data import DataLoader

from cropr_mm.engine.errors import running_errors
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.preflight.sample_errors import SampleError, name_damaged_files


class Photos(BaseDataset):
    """Two photos; the second may be damaged."""

    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(img_path=str(Path(self.data_root, f"{i}.png"))) for i in range(2)]


class LoadNothing:
    """A loading step that fails on good files."""

    def __call__(self, data: dict) -> dict:
        raise KeyError("mask\nof it")


class Bug:
    """A step with a bug."""

    def __call__(self, data: dict) -> dict:
        raise TypeError("a bug")


def photos(folder: Path, *steps: Any) -> Photos:
    for i in range(2):
        cv2.imwrite(str(folder / f"{i}.png"), np.zeros((4, 4, 3), np.uint8))
    return Photos(data_root=str(folder), pipeline=[LoadImageFromFile(), *steps])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG none", None])
def test_a_damaged_file_is_named_in_one_line(
    workers: int, content: bytes | None, tmp_path: Path
) -> None:
    data = photos(tmp_path)
    name_damaged_files(ConcatDataset([data]))
    (file := tmp_path / "1.png").unlink()
    if content is not None:
        file.write_bytes(content)
    loader = DataLoader(data, batch_size=1, num_workers=workers)
    with pytest.raises(SetupError) as error, running_errors():
        for _ in loader:
            pass
    reason = {b"": "empty", b"<html>": "a web page", None: "missing"}.get(content, "no image")
    assert str(error.value).startswith(f"LoadImageFromFile failed on {file}: it is {reason}")
    assert "\n" not in str(error.value)


def test_good_files_pass_and_other_steps_keep_their_errors(tmp_path: Path) -> None:
    data = photos(tmp_path)
    before = data[1]["img"]
    name_damaged_files(data)
    assert (data[1]["img"] == before).all()
    data = photos(tmp_path, Bug())
    name_damaged_files(data)
    with pytest.raises(TypeError, match="a bug"):
        data[0]
    name_damaged_files([1, 2])


def test_what_a_loading_step_says_of_good_files_is_kept(tmp_path: Path) -> None:
    data = photos(tmp_path, LoadNothing())
    name_damaged_files(data)
    with pytest.raises(SampleError, match=r"LoadNothing failed on .*0\.png: KeyError: .*mask"):
        data[0]


def test_a_step_that_drops_a_sample_may(tmp_path: Path) -> None:
    data = photos(tmp_path, lambda data: None)
    name_damaged_files(data)
    assert data.prepare_data(0) is None
