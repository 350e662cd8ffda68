"""Checks of a built model against its data, its evaluator and its checkpoint."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch import Tensor, nn

from cropr_mm.backbones.find import find_backbones, find_vits
from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.final_norm import FINAL_NORM, norms_mean
from cropr_mm.checkpoints.grid import stored_grid
from cropr_mm.checkpoints.load import check_names, check_shapes
from cropr_mm.checkpoints.new_parts import is_new
from cropr_mm.checkpoints.queries import has_deployed_query
from cropr_mm.checkpoints.values import check_values
from cropr_mm.engine.preflight.adapters import check_adapters
from cropr_mm.engine.preflight.data import annotation_loaders, leaves
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.messages import some

_NUM_IDS = 64
_CLASSIFIERS = (
    "data_preprocessor",  # mmpretrain's, which mixes classes
    "bbox_head",
    "mask_head",
    "decode_head",
    "auxiliary_head",
    "panoptic_head",
    "head",
    "roi_head.bbox_head",
    "roi_head.mask_head",
)


def check_classes(model: nn.Module, dataset: Any, where: str) -> None:
    """Compare the number of classes of a model's heads with its dataset.

    Args:
        model: Built model; only heads at the usual places are looked at.
        dataset: Built dataset with ``metainfo['classes']``; without them nothing is compared.
        where: Name of the dataset for the message.

    Raises:
        SetupError: If they differ.
    """
    metainfo = getattr(dataset, "metainfo", None) or {}
    classes = metainfo.get("classes")
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        return
    # Other heads of panoptic models know things or stuff alone.
    paths = ("panoptic_head",) if "thing_classes" in metainfo else _CLASSIFIERS
    counts = {
        name: head.num_classes
        for path in paths
        for name, head in parts_at(model, path)
        if isinstance(getattr(head, "num_classes", None), int)
    }
    wrong = {name: count for name, count in counts.items() if count != len(classes)}
    if wrong:
        got = ", ".join(f"{name} has num_classes={count}" for name, count in wrong.items())
        raise SetupError(
            f"{got}, but the dataset of {where} has {len(classes)} classes ({some(classes)}); "
            f"set num_classes={len(classes)} there"
        )


def check_evaluator(evaluator: Any, dataset: Any, where: str) -> None:
    """Metrics know every class of the dataset that they are given predictions for.

    Those on COCO files are looked at, and those of the best k classes, which need k of them.

    Args:
        evaluator: Built evaluator; other metrics pass.
        dataset: Built dataset of the same loop.
        where: Name of the evaluator for the message.

    Raises:
        SetupError: If the file of a metric lacks classes or images, as after changing the data
            alone, or k is larger than the number of classes.
    """
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes") or ()
    for metric in evaluator.metrics:
        ranks = getattr(metric, "topk", None) or ()  # of mmpretrain
        if classes and max(ranks, default=0) > len(classes):
            raise SetupError(
                f"{where}: expected topk of {type(metric).__name__} up to {len(classes)}, the "
                f"number of classes, got {tuple(ranks)}"
            )
        truth = getattr(metric, "_coco_api", None)
        if truth is None:
            continue
        names = [category.get("name") for category in truth.cats.values()]
        missing = [name for name in classes if name not in names]
        if missing:
            raise SetupError(
                f"{where}.ann_file expects the annotations of its data set, with the classes "
                f"{some(classes)}; got categories {some(names)}"
            )
        if hasattr(dataset, "get_data_info"):  # mmengine's
            _check_ids(truth, dataset, where)


def _check_ids(truth: Any, dataset: Any, where: str) -> None:
    """Images of the data set, some of them, are in the file of a metric."""
    places = np.unique(np.linspace(0, len(dataset) - 1, _NUM_IDS, dtype=int))
    ids = [dataset.get_data_info(int(i)).get("img_id") for i in places]
    missing = [image for image in ids if image is not None and image not in truth.imgs]
    if missing:
        raise SetupError(
            f"{where}.ann_file expects the annotations of its data set; it has no image of id "
            f"{some(missing)}"
        )


def check_masks(model: nn.Module, cfg: Mapping[str, Any]) -> None:
    """A model with a mask head is trained on data whose masks are loaded.

    Args:
        model: Built model; mmdet's detectors say whether they have a mask head.
        cfg: Config with ``train_dataloader``.

    Raises:
        SetupError: If annotations are loaded without masks.
    """
    datasets = leaves(cfg["train_dataloader"]["dataset"])
    loaders = [loader for dataset in datasets for loader in annotation_loaders(dataset)]
    bare = [loader for loader in loaders if not loader.get("with_mask")]
    if bare and getattr(model, "with_mask", False):
        raise SetupError(
            f"{type(model).__name__} has a mask head: expected LoadAnnotations of train_dataloader "
            "with with_mask=True, got it without"
        )


def check_model(
    model: nn.Module, weights: Mapping[str, Tensor], label: str, checkpoint: Mapping[str, Any]
) -> None:
    """Compare a checkpoint to test or resume with the whole model that it goes into.

    Args:
        model: Model.
        weights: Name in the model -> tensor.
        label: What to call the checkpoint in messages.
        checkpoint: Where ``weights`` are from.

    Raises:
        SetupError: If names, shapes or kinds of numbers differ, numbers are not finite, or low-rank
            adapters are others.
    """
    check_adapters(model, weights, label, checkpoint)
    target = model.state_dict()
    missing, unexpected = target.keys() - weights.keys(), weights.keys() - target.keys()
    try:
        check_names(
            missing,
            unexpected,
            f"{label} is not a checkpoint of this config: {len(missing)} of the model's "
            f"{len(target)} tensors are missing, {len(unexpected)} others are there",
        )
        check_shapes(weights, target, label)
        check_values(weights, target, label)
    except CheckpointError as error:
        hint = "\nit is a deployed checkpoint: add --cfg-options model.backbone.deploy=True"
        raise SetupError(f"{error}{hint if has_deployed_query(unexpected) else ''}") from error


def check_encoder(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    label: str,
    checkpoint: Mapping[str, Any],
) -> None:
    """Compare a checkpoint to start training from with the model that it goes into.

    The encoder must be there completely, its reducers and fusion excepted, and a final norm of the
    mean of tokens; and nothing else under its name. Other parts may differ; what keeps its initial
    value or is not used is logged in one line each.

    Args:
        model: Model whose encoders are those that reduce tokens, or, without one, its
            ``backbone``.
        weights: Name in the model -> tensor.
        label: What to call the checkpoint in messages.
        checkpoint: Where ``weights`` are from; a config in it tells the grid of its positions.

    Raises:
        SetupError: If names or shapes of the encoder differ, or the grids of as many positions.
    """
    check_adapters(model, weights, label, checkpoint)
    target = {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    encoders = find_backbones(model)
    paths = [*encoders] or ["backbone"]
    roots = tuple(f"{path}." if path else "" for path in paths)
    wanted = {root + n for root in roots for n in _under(root, target) if not is_new(n)}
    missing = wanted - weights.keys()
    if missing != wanted:  # it is an encoder of this kind
        missing -= _may_start_anew(encoders)
    leftovers = weights.keys() - model.state_dict().keys()
    unexpected = {name for name in leftovers if name.startswith(roots)}
    try:
        # Where nothing has the encoder's name, any name shows what the checkpoint is.
        check_names(
            missing,
            unexpected or (leftovers if missing else ()),
            f"{label} does not fit the encoder: {len(missing)} of its {len(wanted)} weights are "
            f"missing, {len(unexpected)} under its name are unexpected",
        )
        check_shapes({n: v for n, v in weights.items() if n in wanted}, target, label)
        loaded = {n: v for n, v in weights.items() if n in target and v.shape == target[n].shape}
        check_values(loaded, target, label)
        for path, encoder in find_vits(model).items():
            grid = stored_grid(checkpoint, path, (encoder.patch_size, encoder.patch_size))
            if encoder.pos_embed is not None and grid not in (None, encoder.grid):
                raise CheckpointError(
                    f"{label}: expected positions of {encoder.grid[0]}x{encoder.grid[1]} patches, "
                    f"got {grid[0]}x{grid[1]}"
                )
    except CheckpointError as error:
        raise SetupError(
            f"{error}\nexpected a checkpoint whose encoder {some(paths)} is that of this config "
            "(reducers and fusion may be missing, heads may differ); the file of an encoder alone "
            "belongs in model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        ) from error
    initial = [n for n, v in target.items() if n not in weights or weights[n].shape != v.shape]
    for names, text in ((initial, "keep their initial values"), (leftovers, "are not used")):
        if names:
            print_log(f"{label}: {len(names)} {text}: {some(sorted(names))}", logger="current")


def _under(root: str, names: Iterable[str]) -> list[str]:
    """Names that start with ``root``, without it."""
    return [name.removeprefix(root) for name in names if name.startswith(root)]


def _may_start_anew(encoders: Mapping[str, nn.Module]) -> set[str]:
    """Names in the model of the norms that pre-trained encoders do not have."""
    pooled = [path for path, encoder in encoders.items() if norms_mean(encoder)]
    return {".".join(filter(None, (path, name))) for path in pooled for name in FINAL_NORM}


def parts_at(model: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Module at a path, or each of its stages."""
    module: Any = model
    for name in path.split("."):
        module = getattr(module, name, None)
    if isinstance(module, nn.ModuleList):
        yield from ((f"{path}.{i}", stage) for i, stage in enumerate(module))
    elif module is not None:
        yield path, module
