"""Test-time augmentation: the host library's model around the config's, and a pipeline for it."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.preflight.data import leaves

_MODELS: dict[str, dict[str, Any]] = {
    "mmdet": dict(
        type="DetTTAModel",
        tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
    ),
    "mmseg": dict(type="SegTTAModel"),
    "mmpretrain": dict(type="AverageClsScoreTTA"),
}
_FLIPS = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
_META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def enable_tta(cfg: Config) -> None:
    """Test on several versions of each image, and merge what the model says of them.

    ``tta_model`` and ``tta_pipeline`` of the config are used as in the host libraries. Without
    them, each image is seen as it is and mirrored.

    Args:
        cfg: Config from :func:`cropr_mm.engine.config.load_config`; changed in place.

    Raises:
        SetupError: If the config's host library has no such model, or masks are scored, which
            mmdet's does not merge.
    """
    scope = cfg.get("default_scope")
    if scope not in _MODELS and cfg.get("tta_model") is None:
        raise SetupError(
            f"--tta expects default_scope of {', '.join(_MODELS)}, or tta_model, got {scope}"
        )
    evaluators = cfg.test_evaluator
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators
    if scope == "mmdet" and any("segm" in (e.get("metric") or ()) for e in evaluators):
        raise SetupError(
            "--tta merges boxes, not masks: expected test_evaluator.metric='bbox', got one with "
            "'segm'; add --cfg-options test_evaluator.metric=bbox"
        )
    model = copy.deepcopy(cfg.get("tta_model") or _MODELS[scope])
    cfg.model = ConfigDict(**model, module=cfg.model)
    dataset: Any
    for dataset in leaves(cfg.test_dataloader.dataset):
        given = cfg.get("tta_pipeline")
        dataset["pipeline"] = copy.deepcopy(given) or _mirrored(dataset.get("pipeline") or [])


def _mirrored(pipeline: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A test pipeline that gives each image as it is and mirrored; annotations stay as they are."""
    if not pipeline:
        raise SetupError("--tta expects a pipeline in the dataset of test_dataloader, got none")
    *steps, last = copy.deepcopy(list(pipeline))
    loads = [step for step in steps if "Annotations" in str(step["type"])]
    if "PackDetInputs" in str(last["type"]):
        last["meta_keys"] = tuple(dict.fromkeys((*last.get("meta_keys", ()), *_META)))
    branches = [copy.deepcopy(_FLIPS), *([step] for step in loads), [last]]
    kept = [step for step in steps if step not in loads]
    return [*kept, dict(type="TestTimeAug", transforms=branches)]
