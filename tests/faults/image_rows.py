"""Faults of image files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image
from row import Row
from tiny import edit_coco, tiny_config, train_tiny, write_tiny

from cropr_mm.engine.config import load_config
from cropr_mm.engine.train import train

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


def _outside_the_sample(folder: Path, content: bytes, workers: int) -> None:
    """The file is damaged once its name and its content were checked."""
    write_tiny(folder)
    config = tiny_config(folder, "det", train_dataloader__num_workers=workers)
    cfg = load_config(str(config), str(folder / "run"))
    cfg.custom_hooks.append(
        dict(type="DamageHook", file=str(folder / "det/1.png"), content=content)
    )
    train(cfg)


@HOOKS.register_module(force=True)
class DamageHook(Hook):
    """Damages a file before training."""

    def __init__(self, file: str, content: bytes) -> None:
        self.file, self.content = Path(file), content

    def before_train(self, runner: Runner) -> None:
        self.file.write_bytes(self.content)


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
ROWS += [
    Row(
        f"file-late-{name}-{workers}",
        IMAGES,
        f"an image outside of the sample is {fault}, {workers} workers",
        rf"^error: LoadImageFromFile failed on .*1\.png: it {says}$",
        partial(_outside_the_sample, content=content, workers=workers),
    )
    for name, fault, says, content in (
        ("empty", "empty", r"is empty \(0 bytes\)", b""),
        ("page", "a web page", r"is a web page \(HTML\)", PAGE),
    )
    for workers in (0, 1)
]
