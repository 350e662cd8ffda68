"""The host library's own way from an image file to inputs and results, for verification.

H, W pixels of the graph's input; h, w those of the image.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor

from cropr_mm.engine.errors import building_errors
from cropr_mm.export.runtime import Input
from cropr_mm.export.runtime.pixels import Placed
from cropr_mm.export.runtime.results import Result, result_of
from cropr_mm.export.source import Source


class Prepared(NamedTuple):
    """An image file as the host library prepares it.

    Attributes:
        images: Padded to the graph's input, shape (1, 3, H, W), float32.
        sample: The host's data sample of it.
        content: Height and width of the image inside, in pixels.
    """

    images: Tensor
    sample: BaseDataElement
    content: tuple[int, int]


class Host:
    """A model as its host library runs it.

    Args:
        source: The model.
        img_size: Height and width that ``Resize`` aims at in the place of its own scale, or None.
    """

    def __init__(self, source: Source, img_size: tuple[int, int] | None) -> None:
        self.source = source
        transforms = []
        for transform in source.pipeline:
            if transform["type"] in ("LoadAnnotations", "LoadPanopticAnnotations"):
                continue
            changes = {}
            if transform["type"] == "Resize" and img_size is not None:
                changes = dict(scale=img_size[::-1])
            transforms.append({**transform, **changes})
        with DefaultScope.overwrite_default_scope(source.scope), building_errors():
            self.pipeline = Compose(transforms)
        self.transforms = transforms

    def prepare(self, file: Path, to: Input) -> Prepared:
        """Read an image file, as the host's test pipeline and preprocessor do, for this input."""
        size = to.size
        with DefaultScope.overwrite_default_scope(self.source.scope):
            item = self.pipeline(dict(img_path=str(file), img_id=0))
            content = tuple(item["inputs"].shape[-2:])
            if content[0] > size[0] or content[1] > size[1]:
                item = self._fitted(file, size)
                content = tuple(item["inputs"].shape[-2:])
            data = self.source.model.data_preprocessor(pseudo_collate([item]), False)
        images = data["inputs"]
        right, below = size[1] - images.shape[-1], size[0] - images.shape[-2]
        images = F.pad(images, (0, right, 0, below), value=to.pad_value)
        return Prepared(images, data["data_samples"][0], content)

    def _fitted(self, file: Path, size: tuple[int, int]) -> dict:
        """An image that keeps its ratio and would be larger than the input, at the size that fits.

        The hosts' limits are those of the longer and the shorter side, whichever these are.
        """
        height, width = self.pipeline.transforms[0](dict(img_path=str(file)))["img"].shape[:2]
        factor = min(size[0] / height, size[1] / width)
        scale = (int(width * factor + 0.5), int(height * factor + 0.5))
        fitted = [
            {**t, "scale": scale, "keep_ratio": False} if t["type"] == "Resize" else t
            for t in self.transforms
        ]
        return Compose(fitted)(dict(img_path=str(file), img_id=0))

    def differing_results(
        self, task: str, prepared: Prepared, placed: Placed, outputs: list[NDArray]
    ) -> float | None:
        """Share of the results of an image that differ from the host's own predictions.

        Args:
            task: Of the card.
            prepared: The image, see :meth:`prepare`.
            placed: The same as the runner gives it.
            outputs: Of the exported model.

        Returns:
            Segmenter: share of pixels. Classifier: 1 or 0 for the best class. Encoder: None.
        """
        if task == "encoder":
            return None
        result = result_of(task, outputs, placed)
        images, sample, content = prepared
        height, width = images.shape[-2:]
        if task == "segmenter":
            padding = (0, width - content[1], 0, height - content[0])
            sample.set_metainfo(dict(img_padding_size=padding, pad_shape=(height, width)))
        scope = DefaultScope.overwrite_default_scope(self.source.scope)
        with scope, torch.no_grad():
            (predicted,) = self.source.model.predict(images, [sample])
        if task == "segmenter":
            labels = predicted.pred_sem_seg.data[0].numpy()
            if labels.shape != result["labels"].shape:
                return 1.0
            return float((labels != result["labels"]).mean())
        return float(int(predicted.pred_score.argmax()) != int(result["label"]))

    def detections(self, prepared: Prepared) -> Result:
        """The host's own detections in an image, as the runner gives them.

        Args:
            prepared: The image, see :meth:`prepare`.
        """
        images, sample, content = prepared
        height, width = images.shape[-2:]
        size = dict(batch_input_shape=(height, width), pad_shape=(height, width))
        sample.set_metainfo({"scale_factor": (1.0, 1.0), **sample.metainfo, **size})
        sample.set_metainfo(dict(img_shape=content))
        scope = DefaultScope.overwrite_default_scope(self.source.scope)
        with scope, torch.no_grad():
            (predicted,) = self.source.model.predict(images, [sample], rescale=True)
        return detections_of(predicted)


def detections_of(sample: Any) -> Result:
    """Detections of mmdet's data sample, as the runner of exported models gives them."""
    found = sample.pred_instances
    result = {
        "boxes": found.bboxes.numpy(),
        "scores": found.scores.numpy(),
        "labels": found.labels.numpy(),
    }
    if "masks" in found:
        result["masks"] = found.masks.numpy().astype(bool)
    if "mask_scores" in found:
        result["mask_scores"] = found.mask_scores.numpy()
    return result


def test_images(size: tuple[int, int], folder: Path, pads: bool) -> dict[str, Path]:
    """Write random pictures for verification.

    Args:
        size: Height and width of the graph's input.
        folder: Where to.
        pads: Whether the model takes smaller pictures, which it pads.

    Returns:
        Files by what they are.
    """
    import cv2

    random = np.random.default_rng(0)
    height, width = size
    sizes = {"noise": (height, width), "blocks": (height, width)}
    if pads:
        sizes["padded"] = (height, max(1, width * 5 // 8))
    files = {}
    for name, (rows, columns) in sizes.items():
        picture: Any = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        if name != "noise":  # coarse structure, as real images have
            coarse: Any = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
            coarse = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
            picture = cv2.addWeighted(coarse, 0.75, picture, 0.25, 0.0)
        files[name] = folder / f"{name}.png"
        cv2.imwrite(str(files[name]), picture)
    return files
