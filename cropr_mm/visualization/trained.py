"""A trained model that looks at single images.

H, W pixels of what the encoder sees; C classes.
"""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose, pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import load_state_dict, set_random_seed
from mmengine.structures import BaseDataElement
from torch import nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.find import only_backbone
from cropr_mm.build import build_model
from cropr_mm.checkpoints import safe_load
from cropr_mm.checkpoints.content import as_checkpoint
from cropr_mm.checkpoints.queries import collapse_queries
from cropr_mm.engine.console import import_quietly
from cropr_mm.engine.errors import running_errors
from cropr_mm.engine.preflight import SetupError, check_model, check_plans_of
from cropr_mm.engine.preflight.data import leaves
from cropr_mm.inspection.maps import Image, input_picture
from cropr_mm.inspection.token_record import TokenRecord, TokenRecorder


@dataclass(frozen=True)
class Seen:
    """What a model made of one image.

    Attributes:
        image: What the encoder saw, before normalization and before padding at the right and the
            bottom, shape (H, W, 3), RGB.
        tokens: Record of this image alone.
        sample: Predictions, in pixels of ``image``.
    """

    image: Image
    tokens: TokenRecord
    sample: BaseDataElement


@dataclass(frozen=True)
class TrainedModel:
    """A model with its weights and the test pipeline of its config.

    Attributes:
        name: What to call it.
        scope: Host library.
        model: The model, in evaluation mode.
        backbone: Its encoder.
        pipeline: From an image file to the model's input.
        meta: Of its data set: 'classes' and 'palette', where known.
    """

    name: str
    scope: str
    model: nn.Module
    backbone: ReducingBackbone
    pipeline: Compose
    meta: Mapping[str, Any]

    def look(self, file: str) -> Seen:
        """Predict one image file and record its tokens.

        Raises:
            SetupError: If the image does not fit the model.
        """
        set_random_seed(0)  # some methods draw random numbers, and visualizers random colors
        scope = DefaultScope.overwrite_default_scope(self.scope)
        with scope, torch.no_grad(), running_errors():
            item = self.pipeline(dict(img_path=file, img_id=0))
            height, width = item["inputs"].shape[-2:]
            # Predictions stay in the coordinates of the input, where the cells are.
            item["data_samples"].set_metainfo(
                dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
            )
            with TokenRecorder(self.backbone, blocks=()) as recorder:
                (sample,) = self.model.test_step(pseudo_collate([item]))
        return Seen(input_picture(item["inputs"]), recorder.record(), sample.cpu())


def load_trained(name: str, cfg: Config, checkpoint: str, device: str = "cpu") -> TrainedModel:
    """Build the model of a config and fill it from a checkpoint of exactly this model.

    Args:
        name: What to call it.
        cfg: Config from :func:`cropr_mm.engine.runner.load_config`.
        checkpoint: File.
        device: Where to run.

    Raises:
        SetupError: If the config or the checkpoint do not fit, or an image takes several passes.
        CheckpointError: If the file is damaged or holds code.
        FileNotFoundError: If there is none.
    """
    missing = [key for key in ("model", "test_dataloader") if cfg.get(key) is None]
    if missing:
        raise SetupError(f"{cfg.filename}: expected entries {', '.join(missing)}, got none")
    scope = cfg.get("default_scope") or "mmengine"
    if scope != "mmengine":
        import_quietly(f"{scope}.datasets")
    dataset = next(leaves(cfg.test_dataloader.dataset))
    try:
        model = build_model(cfg)
        _, backbone = only_backbone(model)
        pipeline = Compose(_for_files(dataset.get("pipeline") or []))
    except (ValueError, TypeError, KeyError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise SetupError(
            f"{cfg.filename}: {text} (raised in {place.filename}:{place.lineno})"
        ) from error
    if (getattr(model, "test_cfg", None) or {}).get("mode") == "slide":
        raise SetupError(
            f"{cfg.filename}: expected one pass of the encoder per image, got "
            "test_cfg.mode='slide', one for each crop; set 'whole'"
        )
    content = as_checkpoint(safe_load(checkpoint), checkpoint)
    weights = content["state_dict"]
    collapse_queries(weights, model)
    check_model(model, weights, checkpoint, content)
    check_plans_of(model, content["meta"], checkpoint)
    load_state_dict(model, weights, strict=True, logger="silent")
    stored = content["meta"].get("dataset_meta")
    return TrainedModel(
        name=name,
        scope=scope,
        model=model.to(device).eval(),
        backbone=backbone,
        pipeline=pipeline,
        meta=dict(stored or _metainfo(dataset)),
    )


def _for_files(pipeline: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps of a pipeline that need no annotations."""
    kinds = [getattr(step["type"], "__name__", step["type"]) for step in pipeline]
    steps = [s for s, kind in zip(pipeline, kinds, strict=True) if "Annotations" not in kind]
    if not steps:
        raise ValueError("expected a pipeline in the dataset of test_dataloader, got none")
    return steps


def _metainfo(dataset: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a data set says of its classes without reading files."""
    kind = DATASETS.get(dataset["type"]) if isinstance(dataset["type"], str) else dataset["type"]
    if isinstance(kind, type) and issubclass(kind, BaseDataset):
        return DATASETS.build({**dataset, "lazy_init": True, "pipeline": []}).metainfo
    return dataset.get("metainfo") or {}
