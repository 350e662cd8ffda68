"""Image files that are missing, damaged, or of another size than their annotations say."""

import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from cropr_mm.engine.preflight import SetupError, check_files
from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.engine.preflight.images import ImageFile, check_images


def said(images: list[ImageFile], color_type: str | None = "color") -> str:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            check_images(images, Findings("train_dataloader", "a.json"), color_type)
        except SetupError as error:
            return f"error: {error}"
    return "\n".join(str(one.message) for one in warned)


def photo(path: Path, size: tuple[int, int] = (12, 8), orientation: int = 1) -> ImageFile:
    """Write a photo of this width and height; its entry has the same."""
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", size).save(path, exif=exif)
    return ImageFile(str(path), size)


def photos(folder: Path, number: int) -> list[ImageFile]:
    return [photo(folder / f"{i}.jpg") for i in range(number)]


def test_good_images_pass(tmp_path: Path) -> None:
    good = photos(tmp_path, 3)
    assert said(good) == ""
    assert said([]) == ""
    assert said([image._replace(size=None) for image in good]) == ""


def test_every_name_is_looked_for_and_every_folder_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = photos(tmp_path, 1)
    listed = []
    listdir = os.listdir
    monkeypatch.setattr("os.listdir", lambda path: listed.append(path) or listdir(path))
    many = [*good * 500, ImageFile(str(tmp_path / "1.jpg")), *good * 500]
    assert f"1 image is missing ({tmp_path}/1.jpg)" in said(many)
    assert listed == [str(tmp_path)]
    assert "2 images are missing" in said([*many, ImageFile("/nowhere/1.jpg")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "1.jpg is empty (0 bytes)"),
        (lambda data: data[: len(data) // 2], "1.jpg cannot be read to its end"),
        (lambda data: b"\n<!doctype HTML>\n<p>404", "1.jpg is a web page (HTML)"),
        (lambda data: b"<html>" + data, "1.jpg is a web page (HTML)"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (lambda data: b"\0" * 100, "1.jpg is no image that can be read"),
    ],
)
def test_damage_is_named(change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    images = photos(tmp_path, 3)
    file = Path(images[1].path)
    file.write_bytes(change(file.read_bytes()))
    text = said(images)
    assert text.startswith("error: train_dataloader: a.json: 1 image is damaged")
    assert message in text
    assert "3 of 3 were opened" in text
    assert said(images, color_type=None) == ""  # of another reader


@pytest.mark.parametrize("end", [".jpg", ".png", ".bmp", ".webp"])
def test_files_are_read_to_their_end(end: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / f"a{end}"
    cv2.imwrite(str(file), noise)
    assert said([ImageFile(str(file), (64, 64))]) == ""
    file.write_bytes(file.read_bytes()[:-2000])
    assert "cannot be read to its end" in said([ImageFile(str(file), (64, 64))])


def test_a_huge_header_is_named(tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    data = bytearray(Path(image.path).read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    crc = zlib.crc32(bytes(data[12:29]))
    data[29:33] = crc.to_bytes(4, "big")
    Path(image.path).write_bytes(data)
    assert "a huge size in its header" in said([image])


def test_a_large_image_that_opencv_reads_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 8 // 3)  # pillow refuses twice as many
    assert said([image]) == ""
    assert "12x8 for 8x12" in said([image._replace(size=(8, 12))])


def test_a_sample_of_many_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or real(path))
    images = photos(tmp_path, 200)
    Path(images[199].path).write_bytes(b"")
    assert "64 of 200 were opened" in said(images)
    assert len(set(opened)) == 63  # and the empty one, which is at the end


def test_another_size_is_named(tmp_path: Path) -> None:
    images = photos(tmp_path, 3)
    for size in ((8, 12), (12, 9)):
        images[2] = images[2]._replace(size=size)
        text = said(images)
        assert text.startswith("error: ")
        assert f"2.jpg: 12x8 for {size[0]}x{size[1]}" in text
        assert "EXIF" not in text


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(12, 8), (8, 8)])
@pytest.mark.parametrize("color_type", ["color", "color_ignore_orientation"])
@pytest.mark.parametrize("turned", [False, True])
def test_photos_on_their_side(
    orientation: int, size: tuple[int, int], color_type: str, turned: bool, tmp_path: Path
) -> None:
    """The entry's size is that of the stored or of the turned image; mmcv loads one of them."""
    transforms = pytest.importorskip("mmcv.transforms")
    image = photo(tmp_path / "0.jpg", size, orientation)
    if turned and orientation > 4:
        image = image._replace(size=size[::-1])
    load = transforms.LoadImageFromFile(color_type=color_type)
    height, width = load(dict(img_path=image.path))["img_shape"]
    text = said([image], color_type)
    if (width, height) != image.size:
        assert text.startswith("error: ")
        assert "because of the EXIF orientation" in text
        assert "color_type='color_ignore_orientation'" in text
    elif orientation > 1 and color_type == "color" and (orientation < 5 or size == (8, 8)):
        assert "1 image is turned by the EXIF orientation" in text
        assert f"orientation {orientation}" in text
    else:
        assert text == ""


@pytest.fixture
def segmentation(tmp_path: Path) -> Callable[..., Any]:
    """Builds a data set of mmseg on four images with label maps, from folders or from a list."""
    pytest.importorskip("mmseg.datasets")
    init_default_scope("mmseg")

    def build(**changes: Any) -> Any:
        for folder in ("images", "maps"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for i in range(4):
            cv2.imwrite(str(tmp_path / f"images/{i}.jpg"), np.zeros((8, 8, 3), np.uint8))
            cv2.imwrite(str(tmp_path / f"maps/{i}.png"), np.zeros((8, 8), np.uint8))
        (tmp_path / "list.txt").write_text("0\n1\n2\n3\n")
        cfg = dict(
            type="mmseg.BaseSegDataset",
            data_root=str(tmp_path),
            data_prefix=dict(img_path="images", seg_map_path="maps"),
            metainfo=dict(classes=("road", "sky")),
            pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")],
        )
        return DATASETS.build(cfg | changes)

    return build


@pytest.mark.parametrize("changes", [{}, dict(ann_file="list.txt")])
def test_files_of_a_built_data_set(
    changes: dict, segmentation: Callable[..., Any], tmp_path: Path
) -> None:
    data = segmentation(**changes)
    check_files(data, "val_dataloader")
    check_files(DATASETS.build(dict(type="ConcatDataset", datasets=[data])), "val_dataloader")
    for file, message in (
        ("maps/2.png", "1 label map is missing"),
        ("images/2.jpg", "1 image is missing"),
    ):
        data = segmentation(**changes)
        (tmp_path / file).unlink()
        with pytest.raises(SetupError, match=rf"^val_dataloader: .*{message} .*{file}"):
            check_files(data, "val_dataloader")


def test_data_without_files_pass() -> None:
    check_files([1, 2, 3], "train_dataloader")
