"""Prune a dense checkpoint without training."""

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from mmengine.config import Config

from cropr_mm.backbones.find import only_backbone
from cropr_mm.build import build_model
from cropr_mm.checkpoints import safe_load
from cropr_mm.checkpoints.atomic import replacing
from cropr_mm.checkpoints.content import as_checkpoint
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight import SetupError, check_model
from cropr_mm.pruning import prune, untrained_method
from cropr_mm.reducers import TokenReducer
from cropr_mm.registry import MODELS


class Pruned(NamedTuple):
    """What :func:`prune_checkpoint` wrote.

    Attributes:
        config: Config of the pruned model, complete.
        checkpoint: The dense weights, with that config in its meta data.
        reducer: Method.
    """

    config: Path
    checkpoint: Path
    reducer: str

    def __str__(self) -> str:
        return (
            f"Pruned by {self.reducer}, without training.\n"
            f"  config      {self.config}\n"
            f"  checkpoint  {self.checkpoint}\n"
            f"python tools/test.py {self.config} {self.checkpoint} tests it."
        )


def prune_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    out: Path,
    pruned: float = 0.5,
    reducer: Mapping[str, Any] | None = None,
) -> Pruned:
    """Write config and checkpoint of a pruned model that has the weights of a dense one.

    The steps are those of :func:`cropr_mm.pruning.prune`.

    Args:
        cfg: Config of the dense model, from :func:`cropr_mm.engine.config.load_config`; not
            changed.
        checkpoint: Its checkpoint, complete.
        out: Folder for ``config.py`` and ``model.pth``; made where it does not exist.
        pruned: Share of the patch tokens that are gone before the last block, in (0, 1).
        reducer: Config of a method without parameters. Default: attention of the class token, or
            where there is none the variance of pixels.

    Raises:
        SetupError: If config and checkpoint do not fit each other, the encoder reduces tokens
            already, or the method has to be trained or does not fit the encoder.
        CheckpointError: If the file is damaged.
    """
    check_writable("OUT", out, folder=True)
    files = out / "config.py", out / "model.pth"
    if Path(checkpoint).resolve() == files[1].resolve():
        raise SetupError(f"expected another folder for the result, got that of {checkpoint}")
    with building_errors():
        dense = build_model(cfg)
        path, encoder = only_backbone(dense)
    method = dict(reducer or untrained_method(encoder))
    _check_method(method)
    content = as_checkpoint(safe_load(checkpoint), str(checkpoint))
    check_model(dense, content["state_dict"], str(checkpoint))

    result = copy.deepcopy(cfg)
    owner = result.model
    *parents, name = path.split(".")
    for parent in parents:
        owner = owner[parent]
    with building_errors():
        owner[name] = prune(owner[name], pruned, reducer=method)
        model = build_model(result)
    check_model(model, content["state_dict"], str(checkpoint))
    result.work_dir = str(out)
    result.load_from = None
    out.mkdir(parents=True, exist_ok=True)
    result.dump(files[0])
    meta = {**content["meta"], "cfg": result.pretty_text}
    with replacing(files[1]) as temporary:
        torch.save(dict(meta=meta, state_dict=content["state_dict"]), temporary)
    return Pruned(*files, method["type"].removeprefix("cropr_mm."))


def _check_method(cfg: Mapping[str, Any]) -> None:
    """Raise SetupError for what is no method, or one that has to be trained."""
    kind = MODELS.get(cfg["type"])
    if not _is_method(kind):
        raise SetupError(f"--reducer expects one of {_untrained()}, got {cfg['type']}")
    if kind.fixed_slots:
        trained = True
    else:
        with building_errors():
            trained = _has_parameters(MODELS.build({**cfg, "embed_dim": 64}))
    if trained:
        raise SetupError(
            f"{kind.__name__} has to be trained: expected one of {_untrained()}; "
            "tools/train.py --trainable routers trains the modules of Cropr and NonSalient alone"
        )


def _untrained() -> str:
    """Names of the methods that work without training and without arguments."""
    found = []
    for name, kind in MODELS.module_dict.items():
        if not _is_method(kind) or kind.fixed_slots:
            continue
        options = [*inspect.signature(kind).parameters.values()][1:]  # all but embed_dim
        needed = [option for option in options if option.default is option.empty]
        if not needed and not _has_parameters(kind(embed_dim=64)):
            found.append(name)
    return ", ".join(sorted(found))


def _is_method(kind: type | None) -> TypeGuard[type[TokenReducer]]:
    return isinstance(kind, type) and issubclass(kind, TokenReducer)


def _has_parameters(reducer: TokenReducer) -> bool:
    """Whether a dense checkpoint lacks something that the method needs."""
    return next(reducer.parameters(), None) is not None
