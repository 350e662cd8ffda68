"""The tiny data sets and configs of the end-to-end tests, and how rows change and run them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tiny_tasks import write_config, write_images

from cropr_mm.engine.config import load_config
from cropr_mm.engine.train import train


def train_tiny(folder: Path, task: str, work_dir: str = "run", **changes: Any) -> None:
    """Train two iterations of 'det', 'seg' or 'cls'; ``changes`` as in :func:`tiny_config`."""
    config = tiny_config(folder, task, **changes)
    train(load_config(str(config), str(folder / work_dir)))


def training(task: str = "cls", **changes: Any) -> Callable[[Path], None]:
    """What a row runs: :func:`train_tiny` in its folder."""
    return partial(train_tiny, task=task, **changes)


def tiny_config(folder: Path, task: str, **changes: Any) -> Path:
    """Config file of a task on the tiny images, which are written unless they are there.

    Args:
        folder: Where all of it goes.
        task: 'det', 'seg' or 'cls'.
        **changes: Values of entries, by key with ``__`` for dots.
    """
    write_tiny(folder)
    return write_config(folder, task, **changes)


def write_tiny(folder: Path) -> None:
    """Write the tiny images and annotations unless they are there."""
    if not (folder / "det.json").exists():
        write_images(folder)


def edit_coco(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of the tiny COCO json, which is written first."""
    write_tiny(folder)
    content = json.loads((folder / "det.json").read_text())
    edit(content)
    (folder / "det.json").write_text(json.dumps(content))
