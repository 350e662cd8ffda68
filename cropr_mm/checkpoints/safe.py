"""Load checkpoints safely: tensors and plain data, never code.

A pickle may name any Python function and have it called while it loads. Here only names from an
explicit list are resolved: torch's own for tensors, what mmengine's training checkpoints hold
besides (log histories, numpy values, configuration dicts, one-cycle schedulers), and parsed
command lines, which other projects keep beside their weights. There is no fallback.
"""

import codecs
import hashlib
import pickle
import pickletools
import re
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeAlias
from urllib.parse import urlparse

import safetensors.torch
import torch
from mmengine.config import ConfigDict
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from cropr_mm.checkpoints import restricted
from cropr_mm.checkpoints.arrays import numpy_globals
from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.sums import check_sums

MapLocation: TypeAlias = str | torch.device | dict[str, str] | Callable[..., Any] | None

# How files of torch begin that are no zip archives.
_LEGACY_HEAD = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)


def safe_load(path: str | Path, map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Load a checkpoint file without running any code that it may carry.

    Args:
        path: File written by ``torch.save`` or by safetensors (suffix ``.safetensors``), a pickle
            of numpy arrays (suffix ``.pkl``, as detectron2 publishes them), or an http(s) address,
            which is downloaded once into torch's hub cache.
        map_location: As for ``torch.load``; safetensors files understand a device only.

    Returns:
        What the file holds: a state dict, or a dict that has one inside.

    Raises:
        FileNotFoundError: If there is no file at ``path``.
        CheckpointError: If ``path`` is a folder, if the file is damaged or holds something else
            than a dict, or if it asks for Python objects beyond tensors and plain data; they are
            named.
    """
    file = download(str(path)) if is_url(path) else Path(path).expanduser()
    if file.is_dir():
        raise CheckpointError(f"expected a checkpoint file, got the folder {file}")
    if not file.is_file():
        raise FileNotFoundError(f"no checkpoint file at {file}")
    checkpoint = (
        _load_safetensors(file, map_location)
        if file.suffix == ".safetensors"
        else _load_pickle(file, map_location)
    )
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{file}: expected a dict of tensors, got {type(checkpoint).__name__}"
        )
    return checkpoint


def is_url(path: str | Path) -> bool:
    """Whether ``path`` is an http(s) address."""
    return str(path).startswith(("http://", "https://"))


def download(url: str) -> Path:
    """Fetch a file into torch's hub cache, once per machine, and return where it is.

    A file name that ends in ``-<hash>`` is checked against it, as torch does. Other names get a
    folder of their own per address, because many addresses end in the same ``model.safetensors``.

    Raises:
        CheckpointError: If it cannot be fetched, or is not what its name says.
    """
    name = Path(urlparse(url).path).name
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    folder = Path(torch.hub.get_dir(), "checkpoints")
    if digest is None:
        folder /= hashlib.sha256(url.encode()).hexdigest()[:12]
    file = folder / name
    if get_local_rank() == 0 and not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                url, str(file), hash_prefix=digest and digest.group(1), progress=False
            )
        except (OSError, RuntimeError) as error:  # the second where the hash differs
            raise CheckpointError(f"{url} cannot be downloaded: {error}") from error
    barrier()
    return file


@lru_cache(maxsize=1)
def allowed_globals() -> dict[str, Any]:
    """Python objects that a checkpoint may name besides torch's own, by dotted name."""
    return {
        "mmengine.logging.history_buffer.HistoryBuffer": HistoryBuffer,
        "mmengine.config.config.ConfigDict": ConfigDict,
        "mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler": OneCycleParamScheduler,
        "builtins.getattr": _listed_method,
        "builtins.slice": slice,
        "argparse.Namespace": Namespace,
        **numpy_globals(),
    }


def _listed_method(owner: Any, name: Any) -> Callable[..., Any]:
    """Stand in for ``getattr``, by which pickle stores functions that these classes keep."""
    listed = {
        HistoryBuffer: ("min", "max", "current", "mean"),
        OneCycleParamScheduler: ("_annealing_cos", "_annealing_linear"),
    }
    if not isinstance(owner, type) or name not in listed.get(owner, ()):
        raise UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed")
    return getattr(owner, name)


def _load_safetensors(file: Path, map_location: MapLocation) -> dict[str, Any]:
    device = str(map_location) if isinstance(map_location, str | torch.device) else "cpu"
    try:
        return safetensors.torch.load_file(file, device=device)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file}: not a readable safetensors file: {error}") from error


def _load_pickle(file: Path, map_location: MapLocation) -> Any:
    kind = _other_archive(file)
    if kind is not None:
        raise CheckpointError(f"{file}: expected a checkpoint, got a {kind}")
    if map_location != "meta":  # which leaves the tensors in the file
        check_sums(file)
    load = _load_plain_pickle if _is_plain_pickle(file) else _load_restricted
    try:
        return load(file, map_location)
    except Exception as error:  # damaged files fail in many ways
        known = allowed_globals().keys() | restricted.torch_globals().keys()
        forbidden = sorted(set(_globals_in(file)) - known)
        if forbidden:
            raise CheckpointError(
                f"{file}: refused, since loading it could run code: it asks for "
                f"{', '.join(forbidden)}; expected tensors and plain data only"
            ) from error
        reason = str(error).strip().split("\n")[0]
        head = file.read_bytes()[:1]
        if head not in (b"P", b"\x80"):  # neither a zip archive nor a pickle
            kind = "another kind" if head else "an empty file"
            reason = f"expected a file of torch or safetensors, got {kind}"
        raise CheckpointError(f"{file}: not a readable checkpoint: {reason}") from error


def _load_restricted(file: Path, map_location: MapLocation) -> Any:
    """Load a file of torch by the restricted unpickler, for whatever version of torch."""
    module = restricted.pickle_module(allowed_globals())
    return torch.load(file, map_location=map_location, weights_only=False, pickle_module=module)


def _load_plain_pickle(file: Path, map_location: MapLocation) -> Any:
    """Load a pickle without torch's objects: dicts, plain values and arrays of numpy."""
    base = {"_codecs.encode": codecs.encode, "builtins.bytes": bytes}
    module = restricted.pickle_module(numpy_globals(), base=base)
    with file.open("rb") as stream:
        return module.load(stream, encoding="latin1")  # text of Python 2


def _is_plain_pickle(file: Path) -> bool:
    if file.suffix != ".pkl" or _is_torch_zip(file):
        return False
    with file.open("rb") as stream:
        return stream.read(len(_LEGACY_HEAD)) != _LEGACY_HEAD


def _other_archive(file: Path) -> str | None:
    """Name the kind of an archive that torch opens by other code than its unpickler."""
    if not _is_torch_zip(file):
        return "tar archive" if tarfile.is_tarfile(file) else None
    try:
        records = torch._C.PyTorchFileReader(str(file)).get_all_records()
    except RuntimeError:  # damaged: loading reports it
        return None
    return "TorchScript program" if "constants.pkl" in records else None


def _is_torch_zip(file: Path) -> bool:
    """Whether torch takes the file for a zip archive: it looks at the first bytes only."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _globals_in(file: Path) -> Iterator[str]:
    """Names of the Python objects that a checkpoint asks for, found without loading it."""
    try:
        if _is_torch_zip(file):
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    if Path(name).name == "data.pkl":
                        with archive.open(name) as stream:
                            yield from _globals_in_pickle(stream)
        else:
            with file.open("rb") as stream:
                for _ in range(4):  # older files: magic number, protocol, system, data
                    yield from _globals_in_pickle(stream)
    except (ValueError, EOFError, zipfile.BadZipFile):  # not a pickle from here on
        return


def _globals_in_pickle(stream: Any) -> Iterator[str]:
    strings: list[str] = []
    memo: dict[Any, str | None] = {}
    last: str | None = None  # what the previous step put on the stack, if a string
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield restricted.dotted_name(*str(argument).split(" ", 1))
            last = None
        elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
            yield restricted.dotted_name(*strings[-2:])
            last = None
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = last
        elif opcode.name.endswith("PUT"):
            memo[argument] = last
        else:
            known = memo.get(argument) if opcode.name.endswith("GET") else argument
            last = known if isinstance(known, str) else None
            strings += [last] if last is not None else []
