"""Faults of data and of what configs say about them."""

from pathlib import Path
from typing import Any

from row import Row
from tiny import edit_coco, train_tiny


def _missing_first_image(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["images"][0]["file_name"] = "none.png"

    edit_coco(folder, edit)
    train_tiny(folder, "det")


COCO = "Annotations of COCO files"
ROWS = [
    Row("coco-first-image", COCO, "the first image is missing", "none.png", _missing_first_image),
]
