"""Checks of image files: that all are there, and that a sample of them is what it should be.

mmdet never compares the size that a json gives with that of the file, and mmcv turns photos by
their EXIF entry although their boxes mostly belong to the pixels as they are stored.
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from cropr_mm.engine.preflight.findings import Findings

_NUM_OPENED = 64
_ORIENTATION = 274  # tag of EXIF: 1 as stored, 2 to 4 mirrored or upside down, 5 to 8 on its side
_TURNING = ("color", "grayscale")  # values of color_type with which mmcv obeys EXIF
_UNTURNED = "color_type='color_ignore_orientation' of LoadImageFromFile leaves them as stored"


class ImageFile(NamedTuple):
    """An image, and what its data set says about it.

    Attributes:
        path: Its file.
        size: Width and height in pixels; None if nothing says so.
    """

    path: str
    size: tuple[float, float] | None = None


def check_images(images: Sequence[ImageFile], findings: Findings, color_type: str | None) -> None:
    """Check the names of all images and the content of some.

    Args:
        images: All images of a data set.
        findings: What they are reported to.
        color_type: How ``LoadImageFromFile`` reads them; None if another transform does.

    Raises:
        SetupError: If images are missing, damaged or of another size than the annotations say.
    """
    check_exist((image.path for image in images), findings)
    findings.finish()
    if color_type is not None:
        check_sample(images, findings, color_type)
        findings.finish()


def check_exist(paths: Iterable[str], findings: Findings, noun: str = "image") -> None:
    """Note files that are missing; each folder is listed once.

    Args:
        paths: All files.
        findings: Where errors are noted.
        noun: What they are.
    """
    folders: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = _names(folder)
        if name not in folders[folder]:
            missing.append(path)
    findings.error(noun, "is missing", missing)


def check_sample(images: Sequence[ImageFile], findings: Findings, color_type: str) -> None:
    """Open some images, evenly spaced over all, and note those that are damaged or of another size.

    Args:
        images: All images of a data set, which are there.
        findings: Where errors and warnings are noted.
        color_type: How ``LoadImageFromFile`` reads them.
    """
    places = np.unique(np.linspace(0, len(images) - 1, _NUM_OPENED, dtype=int)) if images else ()
    turns = color_type in _TURNING
    damaged: list[str] = []
    sizes: list[str] = []
    turned: list[str] = []
    unclear: list[str] = []
    for image in (images[i] for i in places):
        try:
            stored, orientation = open_image(image.path)
        except OSError as error:
            damaged.append(f"{image.path} {error}")
            continue
        if image.size is None:
            continue
        sideways = stored[::-1] if orientation > 4 else stored
        loaded, other = (sideways, stored) if turns else (stored, sideways)
        if loaded != tuple(image.size):
            text = f"{image.path}: {_text(loaded)} for {_text(image.size)}"
            (turned if other == tuple(image.size) else sizes).append(text)
        elif turns and orientation > 1 and stored == sideways:
            unclear.append(f"{image.path}: orientation {orientation}")
    looked = f"{len(places)} of {len(images)} were opened"
    findings.error("image", "is damaged", damaged, looked)
    findings.error("image", "is of another width x height than the annotations say", sizes, looked)
    findings.error(
        "image",
        "is of another width x height than the annotations say, because of the EXIF orientation",
        turned,
        f"{_UNTURNED}, 'color' turns them; {looked}",
    )
    findings.warn(
        "image",
        "is turned by the EXIF orientation, and the annotations' width x height does not tell "
        "whether they are for the turned image",
        unclear,
        f"if not, {_UNTURNED}; {looked}",
    )


def _names(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder or "."))
    except OSError:
        return set()


def open_image(path: str) -> tuple[tuple[int, int], int]:
    """Read an image to its end.

    Returns:
        Width and height in pixels as stored, and EXIF's orientation.

    Raises:
        OSError: If it is damaged, with what is wrong: 'is empty (0 bytes)'.
    """
    start = Path(path).read_bytes()[:200]
    if not start:
        raise OSError("is empty (0 bytes)")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise OSError("is a web page (HTML)")
    if start.startswith(b"version https://git-lfs"):
        raise OSError("is a pointer of Git LFS: get the files with 'git lfs pull'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                size = image.size
                if image.format == "PNG":
                    image.verify()  # checksums alone: decoding takes many times as long
                    return size, 1
                orientation = image.getexif().get(_ORIENTATION, 1)
                image.draft("L", (8, 8))  # JPEG: as few pixels as possible, but of the whole file
                image.load()
                return size, orientation
        except (UnidentifiedImageError, Image.DecompressionBombError):
            return _size_by_opencv(path), 1  # formats and sizes that pillow refuses
        except (OSError, SyntaxError, ValueError) as error:
            raise OSError(f"cannot be read to its end: {error}") from error


def _size_by_opencv(path: str) -> tuple[int, int]:
    """Width and height of what OpenCV reads; raises as :func:`open_image`."""
    try:
        read = cv2.imread(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise OSError("has a huge size in its header, which OpenCV does not read") from error
    if read is None:
        raise OSError("is no image that can be read")
    return read.shape[1], read.shape[0]


def _text(size: Sequence[Any]) -> str:
    return "x".join(map(str, size))
