"""Faults of image files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image
from row import Row
from tiny import edit_coco, train_tiny, write_tiny

Change = Callable[[Path], object]


def _train(folder: Path, task: str, change: Change) -> None:
    """Change the third image of four, and train."""
    write_tiny(folder)
    change(folder / dict(det="det/2.png", seg="seg/2.png", cls="cls/disc/2.png")[task])
    train_tiny(folder, task)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:3000])


def _resize(file: Path) -> None:
    Image.open(file).resize((32, 64)).save(file)


def _sideways(folder: Path) -> None:
    """A photo on its side, whose boxes belong to the pixels as they are stored."""
    _turn(folder, 6, (48, 64))


def _upside_down(folder: Path) -> None:
    _turn(folder, 3, (64, 64))


def _turn(folder: Path, orientation: int, size: tuple[int, int]) -> None:
    write_tiny(folder)
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", size).save(folder / "det/2.jpg", exif=exif)

    def edit(content: dict) -> None:
        content["images"][2].update(file_name="2.jpg", width=size[0], height=size[1])

    edit_coco(folder, edit)
    train_tiny(folder, "det")


def _missing_label_map(folder: Path) -> None:
    write_tiny(folder)
    (folder / "masks/2.png").unlink()
    train_tiny(folder, "seg")


PAGE = b"<!DOCTYPE html><html><body>Not found</body></html>"
IMAGES = "Image files"
ROWS = [
    Row(
        f"file-{name}-{task}",
        IMAGES,
        f"{fault}, {task}",
        says,
        partial(_train, task=task, change=change),
    )
    for name, fault, says, change, tasks in (
        ("missing", "an image is missing", r"1 image is missing .*2\.png", Path.unlink, ("det",)),
        (
            "empty",
            "an image of no bytes",
            r"2\.png is empty",
            lambda file: file.write_bytes(b""),
            ("det", "seg", "cls"),
        ),
        (
            "page",
            "a web page in place of an image",
            r"2\.png is a web page",
            lambda file: file.write_bytes(PAGE),
            ("det", "cls"),
        ),
        ("cut", "an image cut short", r"2\.png cannot be read to its end", _cut, ("det", "cls")),
        (
            "size",
            "an image of another size than its entry",
            r"another width x height .*2\.png: 32x64 for 64x64",
            _resize,
            ("det",),
        ),
    )
    for task in tasks
]
ROWS += [
    Row(
        "file-map",
        IMAGES,
        "a label map is missing",
        r"1 label map is missing .*2\.png",
        _missing_label_map,
    ),
    Row(
        "file-sideways",
        IMAGES,
        "EXIF turns a photo on its side",
        r"because of the EXIF .*2\.jpg: 64x48 for 48x64.*color_ignore_orientation",
        _sideways,
    ),
    Row(
        "file-upside-down",
        IMAGES,
        "EXIF turns a photo upside down",
        r"1 image is turned by the EXIF.*2\.jpg: orientation 3",
        _upside_down,
    ),
]
