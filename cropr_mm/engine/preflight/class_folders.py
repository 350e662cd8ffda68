"""Classes of mmpretrain's data sets: one folder for each, or a label in each line of a list.

Labels are places in the sorted list of folders, so that one that is missing shifts all after it.
"""

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cropr_mm.engine.preflight.data import lazy_dataset, leaves
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.messages import some


def check_class_folders(cfg: Mapping[str, Any], splits: Iterable[str]) -> None:
    """Check folders and lists of every ``CustomDataset`` of mmpretrain.

    Args:
        cfg: Config with ``<split>_dataloader``; the default scope is set.
        splits: Of 'train', 'val' and 'test'; a split without data loader is skipped.

    Raises:
        SetupError: If folders of two splits differ, their number is not that of
            ``metainfo['classes']``, or a line of a list has no number as its label.
    """
    first: tuple[str, str, list[str]] | None = None
    for split in splits:
        where = f"{split}_dataloader"
        for leaf in leaves((cfg.get(where) or {}).get("dataset")):
            dataset = lazy_dataset(leaf)
            reader = getattr(getattr(dataset, "load_data_list", None), "__qualname__", "")
            if reader != "CustomDataset.load_data_list" or not dataset.with_label:
                continue
            if dataset.ann_file:
                _check_lines(dataset.ann_file, where)
                continue
            root = dataset.img_prefix
            folders = _folders(root, dataset, where)
            if first is None:
                first = (where, root, folders)
            elif folders != first[2]:
                raise SetupError(_difference((where, root, folders), first))


def check_same_classes(trained: Any, dataset: Any, where: str) -> None:
    """Warn if the names of as many classes differ from those of the training data.

    Args:
        trained: Built dataset of training.
        dataset: Built dataset of another loop.
        where: Name of the latter for the message.
    """
    expected, got = (
        tuple((getattr(part, "metainfo", None) or {}).get("classes") or ())
        for part in (trained, dataset)
    )
    if len(expected) == len(got) and expected != got:
        differing = [f"{a!r} for {b!r}" for a, b in zip(got, expected, strict=True) if a != b]
        warnings.warn(
            f"{where}: expected the classes of train_dataloader in their order, got "
            f"{some(differing)}: predictions are scored by place, not by name",
            stacklevel=2,
        )


def _folders(root: str, dataset: Any, where: str) -> list[str]:
    """Names of the folders of classes."""
    if not os.path.isdir(root):
        raise SetupError(f"{where}: expected a folder for each class in {root}, which is none")
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    hidden = [name for name in folders if name.startswith(".")]
    if hidden:  # as notebooks and file managers leave them behind
        raise SetupError(
            f"{where}: mmpretrain takes every folder in {root} for a class, {some(hidden)} too: "
            "expected none whose name begins with a dot"
        )
    classes = (dataset.metainfo or {}).get("classes")
    if not folders:
        raise SetupError(f"{where}: expected a folder for each class in {root}, found none")
    if classes is not None and len(classes) != len(folders):
        raise SetupError(
            f"{where}: expected a folder for each of {len(classes)} classes ({some(classes)}) in "
            f"{root}, found {len(folders)} ({some(folders)})"
        )
    return folders


def _difference(here: tuple[str, str, list[str]], first: tuple[str, str, list[str]]) -> str:
    """What two splits do not share."""
    missing = [name for name in first[2] if name not in here[2]]
    more = [name for name in here[2] if name not in first[2]]
    lacks = f"lacks {some(missing)}" if missing else ""
    has = f"has {some(more)}, which that one lacks" if more else ""
    return (
        f"{here[0]}: expected the folders of classes of {first[0]} ({first[1]}), but {here[1]} "
        f"{' and '.join(filter(None, (lacks, has)))}: labels follow the order of folders; empty "
        "folders are allowed"
    )


def _check_lines(file: str, where: str) -> None:
    """Each line of a list is a path and a number."""
    bare, text = [], []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), start=1):
        path, _, label = line.strip().rpartition(" ")
        if not path:
            bare.append(f"{number}: {line!r}")
        elif not label.removeprefix("-").isdecimal():
            text.append(f"{number}: {line!r}")
    findings, form = Findings(where, file), "expected lines such as 'cat/1.png 0'"
    findings.error("line", "has no label", bare, form)
    findings.error("line", "has a label that is no number", text, form)
    findings.finish()
