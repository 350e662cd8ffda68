"""Files that are no checkpoints of the model, and pickles that would run code."""

import builtins
import os
import pickle
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from forged_files import FORGED, Attack
from row import Row
from tiny import tiny_config
from torch import nn

from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate


def _test_file(folder: Path, file: Path) -> None:
    config = tiny_config(folder, "cls")
    evaluate(load_config(str(config), str(folder / "run")), str(file))


def _written(folder: Path, write: Callable[[Path], object], name: str = "file.pth") -> None:
    """Test a file that ``write`` makes."""
    write(folder / name)
    _test_file(folder, folder / name)


def _attack(folder: Path, make: Callable[[Path], object], zipped: bool = True) -> None:
    """Test a file whose pickle would make the file 'mark'."""
    mark = folder / "mark"
    content = dict(state_dict=dict(w=torch.ones(1)), bad=make(mark))
    torch.save(content, folder / "file.pth", _use_new_zipfile_serialization=zipped)
    try:
        _test_file(folder, folder / "file.pth")
    finally:
        assert not mark.exists(), "the code of the file has run"


def _cut(file: Path) -> None:
    torch.save(dict(w=torch.ones(10_000)), file)
    file.write_bytes(file.read_bytes()[:20_000])


def _flipped(file: Path) -> None:
    torch.save(dict(state_dict=dict(w=torch.ones(10_000))), file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def _tar(file: Path) -> None:
    with tarfile.open(file, "w") as archive:
        archive.add(__file__)


def _zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "no weights")


def _saved(content: Any) -> Callable[[Path], None]:
    return partial(torch.save, content)


def _script(file: Path) -> None:
    torch.jit.script(nn.Linear(1, 1)).save(str(file))


FILES, PICKLES = "Damaged and foreign files", "Pickles with code"
UNREADABLE = "not a readable checkpoint"
ROWS = [
    Row(f"file-{name}", FILES, fault, says, partial(_written, write=write))
    for name, fault, says, write in (
        ("empty", "an empty file", UNREADABLE, Path.touch),
        ("cut", "the first half of a checkpoint", UNREADABLE, _cut),
        ("flipped", "one byte of a weight is another", "damaged at", _flipped),
        (
            "html",
            "an error page of a server",
            UNREADABLE,
            lambda f: f.write_text("<!DOCTYPE html>"),
        ),
        (
            "pointer",
            "a pointer of Git LFS",
            UNREADABLE,
            lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\n"),
        ),
        ("noise", "random bytes", UNREADABLE, lambda f: f.write_bytes(os.urandom(5000))),
        (
            "folder",
            "a folder",
            r"expected a checkpoint file, got the folder .*file\.pth",
            Path.mkdir,
        ),
        ("tar", "a tar archive", "tar archive", _tar),
        ("zip", "another zip archive", UNREADABLE, _zip),
        ("script", "TorchScript", "TorchScript", _script),
        ("tensor", "a tensor alone", "expected a dict of tensors", _saved(torch.ones(2))),
        ("list", "a list", "expected a dict of tensors", _saved([1, 2])),
        ("module", "a whole module", "asks for", _saved(dict(model=nn.Linear(1, 1)))),
        (
            "other",
            "weights of another model",
            "not a checkpoint of this config",
            _saved(dict(state_dict=nn.Linear(2, 2).state_dict())),
        ),
        (
            "numbers",
            "names that are numbers",
            "expected tensors by name",
            _saved(dict(state_dict={1: torch.ones(1)})),
        ),
        (
            "values",
            "weights that are numbers",
            "expected tensors by name under 'state_dict'",
            _saved(dict(state_dict=dict(w=1.0))),
        ),
    )
]
ROWS += [
    Row(
        "file-safetensors",
        FILES,
        "broken safetensors",
        "not a readable safetensors file",
        partial(_written, write=lambda f: f.write_bytes(b"no tensors"), name="file.safetensors"),
    ),
    Row(
        "file-safetensors-other",
        FILES,
        "safetensors of another model",
        "not a checkpoint of this config",
        partial(
            _written,
            write=lambda f: safetensors.torch.save_file(dict(w=torch.ones(3)), f),
            name="file.safetensors",
        ),
    ),
    Row(
        "file-pickle",
        FILES,
        "a pickle of numpy arrays",
        "expected tensors by name",
        partial(
            _written,
            write=lambda f: f.write_bytes(pickle.dumps(dict(model=dict(w=np.ones(2))))),
            name="file.pkl",
        ),
    ),
]
ROWS += [
    Row(
        f"pickle-{name.replace(' ', '-')}",
        PICKLES,
        f"`{name}`",
        says,
        partial(_attack, make=make, zipped=zipped),
    )
    for name, says, zipped, make in (
        (
            "os.system",
            r"could run code: it asks for posix\.system",
            True,
            lambda mark: Attack(os.system, f"touch {mark}"),
        ),
        (
            "eval",
            r"could run code: it asks for builtins\.eval",
            True,
            lambda mark: Attack(eval, f"open({str(mark)!r}, 'w')"),
        ),
        (
            "exec",
            r"could run code: it asks for builtins\.exec",
            False,
            lambda mark: Attack(exec, f"open({str(mark)!r}, 'w')"),
        ),
        (
            "open",
            r"could run code: it asks for io\.open",
            False,
            lambda mark: Attack(builtins.open, str(mark), "w"),
        ),
        (
            "import",
            r"could run code: it asks for builtins\.__import__",
            True,
            lambda mark: Attack(__import__, "antigravity"),
        ),
        (
            "subprocess",
            r"could run code: it asks for subprocess\.call",
            False,
            lambda mark: Attack(subprocess.call, ["touch", str(mark)]),
        ),
        (
            "getattr",
            r"getattr\(.* is not allowed",
            True,
            lambda mark: Attack(getattr, np.ndarray, "tofile"),
        ),
        (
            "torch.load",
            r"could run code: it asks for torch\..*load",
            True,
            lambda mark: Attack(torch.load, "nested.pth"),
        ),
        ("huge array", "expected a plain state of", True, lambda mark: FORGED["shape"]),
        ("forged dtype", "expected a plain state of", False, lambda mark: FORGED["fields"]),
    )
]
