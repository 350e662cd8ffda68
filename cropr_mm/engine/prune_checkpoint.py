"""Prune a dense checkpoint without training."""

import copy
import inspect
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from mmengine.config import Config
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from cropr_mm.backbones import CroprViT
from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.find import only_backbone
from cropr_mm.build import build_model
from cropr_mm.checkpoints import safe_load
from cropr_mm.checkpoints.atomic import replacing
from cropr_mm.checkpoints.content import as_checkpoint
from cropr_mm.engine.config import require_entries
from cropr_mm.engine.console import import_quietly
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight import SetupError, as_setup_error, check_model, torch_device
from cropr_mm.engine.shortcuts import fit_shortcuts, fit_table
from cropr_mm.engine.training_batches import training_batches
from cropr_mm.fusion import ShortcutFusion
from cropr_mm.pruning import prune, untrained_method, with_signal
from cropr_mm.reducers import ShortcutPruner, TokenReducer
from cropr_mm.registry import MODELS, class_of

DEFAULT_IMAGES = 64
DEFAULT_SHARE = 0.5


class Pruned(NamedTuple):
    """What :func:`prune_checkpoint` wrote.

    Attributes:
        config: Config of the pruned model, complete.
        checkpoint: Its weights, with that config in its meta data.
        reducer: Method.
        images: Training images that the shortcuts were fitted to; 0 where there are none.
        ready: Whether the method works without training.
    """

    config: Path
    checkpoint: Path
    reducer: str
    images: int
    ready: bool

    def __str__(self) -> str:
        fit = f", shortcuts fitted to {self.images} training images" if self.images else ""
        lines = [
            f"Pruned by {self.reducer}, without training{fit}.",
            f"  config      {self.config}",
            f"  checkpoint  {self.checkpoint}",
        ]
        if self.ready:
            lines.append(f"python tools/test.py {self.config} {self.checkpoint} tests it.")
        else:
            lines.append(
                f"{self.reducer} has to be trained now:\n"
                f"python tools/train.py {self.config} --load-from {self.checkpoint}"
            )
        return "\n".join(lines)


def prune_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    out: Path,
    pruned: float | None = None,
    reducer: Mapping[str, Any] | None = None,
    images: int | None = None,
    device: str | None = None,
) -> Pruned:
    """Write config and checkpoint of a pruned model that has the weights of a dense one.

    A dense config gets the steps of :func:`cropr_mm.pruning.prune`. Where its encoder has a last
    block in which pruned tokens come back, they do so by :class:`cropr_mm.fusion.ShortcutFusion`,
    which is fitted here (see :func:`cropr_mm.engine.shortcuts.fit_shortcuts`). A config that has
    this fusion already keeps its reducer and its schedule.

    Args:
        cfg: Config of the dense model, or of a pruned one with ShortcutFusion, from
            :func:`cropr_mm.engine.config.load_config`; not changed.
        checkpoint: Checkpoint of the dense model, complete.
        out: Folder for ``config.py`` and ``model.pth``; made where it does not exist.
        pruned: Share of the patch tokens that are gone before the last block, in (0, 1). Default:
            0.5 for a dense config.
        reducer: Config of a method that needs no training. Default for a dense config:
            ShortcutPruner, which is fitted too; without a fit the attention of the class token, or
            where there is none the variance of pixels.
        images: Training images for the fit; their labels are not used. 0 fits nothing. Default:
            64, or 0 where no token comes back.
        device: Where the fit runs. Default: a GPU where there is one.

    Raises:
        SetupError: If config and checkpoint do not fit each other, the encoder reduces tokens
            otherwise already, the method has to be trained or does not fit the encoder, or there
            are not so many training images.
        CheckpointError: If the file is damaged.
    """
    check_writable("OUT", out, folder=True)
    device = torch_device(device)
    files = out / "config.py", out / "model.pth"
    if Path(checkpoint).resolve() == files[1].resolve():
        raise SetupError(f"expected another folder for the result, got that of {checkpoint}")
    if images is not None and images < 0:
        raise SetupError(f"expected --images of 0 or more, got {images}")
    dense, result = copy.deepcopy(cfg), copy.deepcopy(cfg)
    with building_errors():
        path, encoder = only_backbone(build_model(cfg, "meta"))
        entry = reduce(getitem, path.split("."), result.model)
        if isinstance(encoder.fusion, ShortcutFusion):
            if pruned is not None or reducer is not None or images == 0:
                raise SetupError(
                    "this config is pruned already: expected neither --pruned nor --reducer, and "
                    "--images above 0"
                )
            reduce(getitem, path.split("."), dense.model).update(_DENSE)
        else:
            share = DEFAULT_SHARE if pruned is None else pruned
            entry.update(_pruned(entry, encoder, share, reducer, images))
    with building_errors():
        model, dense_model = build_model(result), build_model(dense, "meta")
    fits = isinstance(only_backbone(model)[1].fusion, ShortcutFusion)
    images = (images or DEFAULT_IMAGES) if fits else 0
    content = as_checkpoint(safe_load(checkpoint), str(checkpoint))
    check_model(dense_model, content["state_dict"], str(checkpoint), content)
    load_state_dict(model, content["state_dict"], strict=False, logger="silent")
    if images:
        model.to(device)
        batches = _training_images(cfg, model, images)
        images = sum(len(batch) for batch in batches)
        print(f"\n{fit_table(fit_shortcuts(only_backbone(model)[1], batches))}\n")
    result.work_dir = str(out)
    result.load_from = None
    out.mkdir(parents=True, exist_ok=True)
    result.dump(files[0])
    meta = {**content["meta"], "cfg": result.pretty_text}
    with replacing(files[1]) as temporary:
        torch.save(dict(meta=meta, state_dict=model.cpu().state_dict()), temporary)
    kind = class_of(entry.reducer, MODELS)
    ready = kind is ShortcutPruner or not _has_parameters(only_backbone(model)[1].reducers)
    return Pruned(*files, kind.__name__, images, ready)


_SHORTCUTS = "cropr_mm.ShortcutFusion"
_DENSE: dict[str, Any] = dict(reducer=None, schedule=None, fusion=None)


def _pruned(
    entry: Mapping[str, Any],
    encoder: ReducingBackbone,
    share: float,
    reducer: Mapping[str, Any] | None,
    images: int | None,
) -> dict[str, Any]:
    """Config of the pruned twin of a dense backbone."""
    fitted = images != 0 and isinstance(encoder, CroprViT)
    if reducer is None:
        reducer = dict(type="cropr_mm.ShortcutPruner") if fitted else untrained_method(encoder)
    elif not (fitted and MODELS.get(reducer["type"]) is ShortcutPruner):
        _check_method(reducer)
        reducer = with_signal(reducer, encoder)
    with as_setup_error():
        cfg = prune(entry, share, reducer=reducer)
    comes_back = fitted and cfg.get("fusion") is not None
    if images and not comes_back:
        raise SetupError(
            "no pruned token comes back to the last block, in this encoder or with this method: "
            f"expected --images 0, got {images}"
        )
    if comes_back:
        cfg["fusion"] = {**cfg["fusion"], "type": _SHORTCUTS}
    return cfg


def _training_images(cfg: Config, model: nn.Module, images: int) -> list[Tensor]:
    """Preprocessed images of the config's training data, in whole batches."""
    require_entries(cfg, "train_dataloader")
    if cfg.get("default_scope"):
        import_quietly(f"{cfg.default_scope}.datasets")
    with building_errors():
        batches = training_batches(cfg, model, images)
    return [batch["inputs"] for batch in batches]


def _check_method(cfg: Mapping[str, Any]) -> None:
    """Raise SetupError for what is no method, or one that has to be trained."""
    kind = MODELS.get(cfg["type"])
    if not _is_method(kind):
        raise SetupError(f"--reducer expects one of {untrained_methods()}, got {cfg['type']}")
    if kind is ShortcutPruner:
        raise SetupError(
            "ShortcutPruner is fitted to training images: expected --images above 0 and an "
            "encoder of type cropr_mm.CroprViT"
        )
    if kind.fixed_slots:
        trained = True
    else:
        with building_errors():
            trained = _has_parameters(MODELS.build({**cfg, "embed_dim": 64}))
    if trained:
        raise SetupError(
            f"{kind.__name__} has to be trained: expected one of {untrained_methods()}; "
            "tools/train.py --trainable routers trains the modules of Cropr and NonSalient alone"
        )


def untrained_methods() -> str:
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


def _has_parameters(reducer: nn.Module) -> bool:
    """Whether a dense checkpoint lacks something that the method needs."""
    return next(reducer.parameters(), None) is not None
