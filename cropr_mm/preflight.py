"""Checks of a config's data before anything expensive starts.

Host libraries meet many mistakes in silence or deep inside a data loader: mmdet drops categories
that it cannot match, mmseg lists a folder where its split file is missing.
"""

import inspect
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch import Tensor, nn

from cropr_mm.backbones.lookup import find_backbones
from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.grid import stored_grid
from cropr_mm.checkpoints.load import check_names, check_shapes

_CLASSIFIERS = (
    "bbox_head",
    "mask_head",
    "decode_head",
    "auxiliary_head",
    "head",
    "roi_head.bbox_head",
    "roi_head.mask_head",
)


class SetupError(ValueError):
    """A mistake in the user's config, files or arguments; its message needs no traceback."""


def check_data(cfg: Mapping[str, Any], splits: Iterable[str]) -> None:
    """Check the files behind a config's data loaders and evaluators.

    Args:
        cfg: Config with ``<split>_dataloader`` and ``<split>_evaluator``; the default scope is set.
        splits: Of 'train', 'val' and 'test'; a split without data loader is skipped.

    Raises:
        SetupError: If an annotation file is missing, empty or damaged, an image folder is missing,
            there is no image, the classes of a COCO json are not those of the dataset, or it lacks
            masks that are loaded or scored.
    """
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        if not loader:
            continue
        evaluators = cfg.get(f"{split}_evaluator") or []
        evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators
        scored = any("segm" in (e.get("metric") or ()) for e in evaluators if hasattr(e, "get"))
        for dataset in _leaves(loader["dataset"]):
            masks = scored or any(t.get("with_mask") for t in _annotation_loaders(dataset))
            _check_dataset(dataset, f"{split}_dataloader", masks)
        for evaluator in evaluators:
            if isinstance(evaluator, Mapping) and _is_local(evaluator):
                _check_file(evaluator.get("ann_file"), f"{split}_evaluator")


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
    if not isinstance(classes, Sequence) or isinstance(classes, str) or "thing_classes" in metainfo:
        return
    for path in _CLASSIFIERS:
        for name, head in _at(model, path):
            count = getattr(head, "num_classes", None)
            if isinstance(count, int) and count != len(classes):
                raise SetupError(
                    f"{name} has num_classes={count}, but the dataset of {where} has "
                    f"{len(classes)} classes ({_some(classes)}); set num_classes={len(classes)}"
                )


def check_evaluator(evaluator: Any, dataset: Any, where: str) -> None:
    """Metrics on COCO files know every class of the dataset that they are given predictions for.

    Args:
        evaluator: Built evaluator; metrics without annotations of their own are left out.
        dataset: Built dataset of the same loop.
        where: Name of the evaluator for the message.

    Raises:
        SetupError: If the file of a metric lacks classes, as after changing the data alone.
    """
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes") or ()
    for metric in evaluator.metrics:
        truth = getattr(metric, "_coco_api", None)
        if truth is None:
            continue
        names = [category.get("name") for category in truth.cats.values()]
        missing = [name for name in classes if name not in names]
        if missing:
            raise SetupError(
                f"{where}.ann_file expects the annotations of its data set, with the classes "
                f"{_some(classes)}; got categories {_some(names)}"
            )


def check_masks(model: nn.Module, cfg: Mapping[str, Any]) -> None:
    """A model with a mask head is trained on data whose masks are loaded.

    Args:
        model: Built model; mmdet's detectors say whether they have a mask head.
        cfg: Config with ``train_dataloader``.

    Raises:
        SetupError: If annotations are loaded without masks.
    """
    datasets = _leaves(cfg["train_dataloader"]["dataset"])
    loaders = [loader for dataset in datasets for loader in _annotation_loaders(dataset)]
    bare = [loader for loader in loaders if not loader.get("with_mask")]
    if bare and getattr(model, "with_mask", False):
        raise SetupError(
            f"{type(model).__name__} has a mask head: expected LoadAnnotations of train_dataloader "
            "with with_mask=True, got it without"
        )


def check_model(model: nn.Module, weights: Mapping[str, Tensor], label: str) -> None:
    """Compare a checkpoint to test or resume with the whole model that it goes into.

    Args:
        model: Model.
        weights: Name in the model -> tensor.
        label: What to call the checkpoint in messages.

    Raises:
        SetupError: If names or shapes differ.
    """
    target = model.state_dict()
    missing, unexpected = target.keys() - weights.keys(), weights.keys() - target.keys()
    deployed = any(name.endswith(".query") and ".reducers." in f".{name}" for name in unexpected)
    try:
        check_names(
            missing,
            unexpected,
            f"{label} is not a checkpoint of this config: {len(missing)} of the model's "
            f"{len(target)} tensors are missing, {len(unexpected)} others are there",
        )
        check_shapes(weights, target, label)
    except CheckpointError as error:
        hint = "\nit is a deployed checkpoint: add --cfg-options model.backbone.deploy=True"
        raise SetupError(f"{error}{hint if deployed else ''}") from error


def check_encoder(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    label: str,
    checkpoint: Mapping[str, Any],
) -> None:
    """Compare a checkpoint to start training from with the model that it goes into.

    The encoder must be there completely, its reducers excepted, and nothing else under its name.
    Other parts may differ; what keeps its initial value or is not used is logged in one line each.

    Args:
        model: Model whose encoders are its ``CroprViT``, or, without one, its ``backbone``.
        weights: Name in the model -> tensor.
        label: What to call the checkpoint in messages.
        checkpoint: Where ``weights`` are from; a config in it tells the grid of its positions.

    Raises:
        SetupError: If names or shapes of the encoder differ, or the grids of as many positions.
    """
    target = {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    encoders = find_backbones(model)
    paths = [*encoders] or ["backbone"]
    roots = tuple(f"{path}." if path else "" for path in paths)
    wanted = {n for n in target if n.startswith(roots) and ".reducers." not in f".{n}"}
    missing = wanted - weights.keys()
    leftovers = weights.keys() - model.state_dict().keys()
    strangers = {name for name in leftovers if name.startswith(roots)}
    try:
        # Where nothing has the encoder's name, any name shows what the checkpoint is.
        check_names(
            missing,
            strangers or (leftovers if missing else ()),
            f"{label} does not fit the encoder: {len(missing)} of its {len(wanted)} weights are "
            f"missing, {len(strangers)} under its name are unexpected",
        )
        check_shapes({n: v for n, v in weights.items() if n in wanted}, target, label)
        for path, encoder in encoders.items():
            grid = stored_grid(checkpoint, path, encoder.patch_embed.proj.weight)
            if encoder.pos_embed is not None and grid not in (None, encoder.grid):
                raise CheckpointError(
                    f"{label}: expected positions of {encoder.grid[0]}x{encoder.grid[1]} patches, "
                    f"got {grid[0]}x{grid[1]}"
                )
    except CheckpointError as error:
        raise SetupError(
            f"{error}\nexpected a checkpoint whose encoder {_some(paths)} is that of this config "
            "(reducers may be missing, heads may differ); the file of an encoder alone belongs in "
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        ) from error
    initial = [n for n, v in target.items() if n not in weights or weights[n].shape != v.shape]
    for names, text in ((initial, "keep their initial values"), (leftovers, "are not used")):
        if names:
            print_log(f"{label}: {len(names)} {text}: {_some(sorted(names))}", logger="current")


@contextmanager
def loading(cfg: Mapping[str, Any], split: str) -> Iterator[None]:
    """Turn the obscure failure of an empty dataset while it is built into a clear one.

    Args:
        cfg: Config whose data loader is built inside the block.
        split: 'train', 'val' or 'test'.

    Raises:
        SetupError: If no image is left after filtering.
    """
    try:
        yield
    except ValueError as error:
        # numpy's complaint when mmengine serialises an empty list.
        if "at least one array" not in str(error):
            raise
        raise SetupError(_no_image(cfg, split)) from error


def check_length(dataset: Any, cfg: Mapping[str, Any], split: str) -> None:
    """Raise SetupError if a built dataset holds no image."""
    if hasattr(dataset, "__len__") and len(dataset) == 0:
        raise SetupError(_no_image(cfg, split))


def _no_image(cfg: Mapping[str, Any], split: str) -> str:
    sources = [
        f"ann_file={leaf.get('ann_file', '')!r}, data_prefix={leaf.get('data_prefix')}, "
        f"filter_cfg={leaf.get('filter_cfg')}"
        for leaf in _leaves(cfg[f"{split}_dataloader"]["dataset"])
    ]
    return f"{split}_dataloader: expected at least one image after filtering, got none from " + (
        "; ".join(sources)
    )


def _leaves(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """Configs of datasets inside wrappers such as ConcatDataset and RepeatDataset."""
    if isinstance(dataset, Mapping) and "dataset" in dataset:
        yield from _leaves(dataset["dataset"])
    elif isinstance(dataset, Mapping) and "datasets" in dataset:
        for part in dataset["datasets"]:
            yield from _leaves(part)
    elif isinstance(dataset, Mapping):
        yield dataset


def _annotation_loaders(dataset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Transforms of a dataset's pipeline that load annotations as mmdet's ``LoadAnnotations``."""
    pipeline = dataset.get("pipeline") or []
    kinds = ("LoadAnnotations", "mmdet.LoadAnnotations")
    return [step for step in pipeline if hasattr(step, "get") and step.get("type") in kinds]


def _check_dataset(cfg: Mapping[str, Any], where: str, masks: bool) -> None:
    kind = cfg["type"]
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if not inspect.isclass(kind) or not issubclass(kind, BaseDataset) or not _is_local(cfg):
        return
    # The library's own rules join its paths; the pipeline is not needed for that.
    dataset = DATASETS.build({**cfg, "lazy_init": True, "pipeline": []})
    _check_file(dataset.ann_file, where)
    for key, folder in (dataset.data_prefix or {}).items():
        given = cfg.get("data_prefix")
        named = bool(given.get(key)) if isinstance(given, Mapping) else bool(given)
        if named and not os.path.exists(folder):
            raise SetupError(
                f"{where}: expected a folder for data_prefix {key!r}, found none at {folder}"
            )
    # Subclasses that read their files in another way have their own rules.
    if dataset.load_data_list.__qualname__ == "CocoDataset.load_data_list":
        _check_coco(dataset, where, masks)


def _is_local(cfg: Mapping[str, Any]) -> bool:
    return (cfg.get("backend_args") or {}).get("backend", "local") == "local"


def _check_file(path: Any, where: str) -> None:
    if not isinstance(path, str) or not path or "://" in path:
        return
    if not os.path.isfile(path):
        raise SetupError(f"{where}: expected an annotation file, found none at {path}")
    if os.path.getsize(path) == 0:
        raise SetupError(f"{where}: expected annotations, but {path} is empty (0 bytes)")


def _check_coco(dataset: Any, where: str, masks: bool) -> None:
    """Check what mmdet takes from a COCO json by name, without a word where names do not match."""
    file, classes = dataset.ann_file, list(dataset.metainfo["classes"])
    content = _read_coco(file, where)
    names = [category["name"] for category in content["categories"]]
    missing = [name for name in classes if name not in names]
    if missing:
        raise SetupError(
            f"{where}: {file} lacks {len(missing)} of the dataset's {len(classes)} classes "
            f"({_some(missing)}); it has {_some(names)}; set metainfo=dict(classes=...)"
        )
    order = [name for name in names if name in classes]
    if order != classes:
        raise SetupError(
            f"{where}: metainfo must list the classes in the order of the json's categories, since "
            f"labels follow the json; expected {_some(order)}; got {_some(classes)}"
        )
    if not content["images"]:
        raise SetupError(f"{where}: expected at least one image, but {file} lists none")
    ids = {category["id"]: category["name"] for category in content["categories"]}
    boxes = Counter(ids.get(box["category_id"]) for box in content.get("annotations", []))
    if not dataset.test_mode and not sum(boxes[name] for name in classes):
        raise SetupError(
            f"{where}: expected annotations of {_some(classes)}, but {file} has none of them "
            f"({sum(boxes.values())} annotations in all)"
        )
    bare = [
        annotation
        for annotation in content.get("annotations", [])
        if masks and ids.get(annotation["category_id"]) in classes
        if not annotation.get("segmentation") and annotation.get("area", 1) > 0
    ]
    if bare:
        raise SetupError(
            f"{where}: masks are loaded or scored, but {len(bare)} of {sum(boxes.values())} "
            f"annotations in {file} have no segmentation (the first is that of id "
            f"{bare[0].get('id')}); expected masks, or a model and metrics without"
        )
    others = {name: count for name, count in boxes.items() if name not in classes}
    if others:
        warnings.warn(
            f"{where}: {sum(others.values())} annotations of {len(others)} categories that are not "
            f"among the dataset's classes are left out ({_some(sorted(map(str, others)))})",
            stacklevel=2,
        )
    first = Path(dataset.data_prefix.get("img", ""), content["images"][0]["file_name"])
    if not first.is_file():
        raise SetupError(f"{where}: expected the images of {file}, found none at {first}")


def _read_coco(file: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{where}: {file} is not valid json: {error}") from error
    keys = ("images", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise SetupError(f"{where}: expected lists 'images' and 'categories' in {file}, got {got}")
    return content


def _at(model: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Module at a path, or each of its stages."""
    module: Any = model
    for name in path.split("."):
        module = getattr(module, name, None)
    if isinstance(module, nn.ModuleList):
        yield from ((f"{path}.{i}", stage) for i, stage in enumerate(module))
    elif module is not None:
        yield path, module


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f", ... {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more if names else "none"
