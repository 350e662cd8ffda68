"""Memory that a whole detector needs in test and training, heads and post-processing included.

Estimated without computing products, or on a GPU measured. What the estimate does not see is what
:mod:`experiments.encoder_memory` does not see, and the memory of detections of real weights: here
the first proposals and as many detections as the settings allow are taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from torch import nn

from cropr_mm.backbones.find import find_backbones
from cropr_mm.profiling.run_mode import Mode
from experiments.encoder_memory import peak_bytes, tensor_bytes
from experiments.zero_matmuls import zero_matmuls

Peak = Callable[[Callable[[], object]], int]


@dataclass(frozen=True)
class ModelMemory:
    """Bytes that a model needs for one batch.

    Attributes:
        weights: Parameters and buffers as trained, auxiliary parts included.
        weights_deployed: The same after ``switch_to_deploy``.
        optimizer: Two states of AdamW for each parameter that is trained.
        training: Most that forward and backward add to weights and data, gradients of all
            parameters included.
        test: Most that ``predict`` adds to the deployed weights and images.
    """

    weights: int
    weights_deployed: int
    optimizer: int
    training: int
    test: int


def estimated_peak(function: Callable[[], object]) -> int:
    """Most bytes that tensors made by a function on the CPU occupy; it computes no products."""
    with zero_matmuls():
        return peak_bytes(function)


def model_memory(
    model: nn.Module,
    training_batch: dict[str, Any],
    test_batch: dict[str, Any],
    mode: Mode,
    peak: Peak = estimated_peak,
) -> ModelMemory:
    """Run a step of training, deploy the model, and run one of test.

    Args:
        model: A whole model of mmengine on the mode's device; a listener makes its auxiliary
            losses. It is left deployed.
        training_batch: As a data loader gives it, see :func:`random_training_batch`.
        test_batch: The same for test.
        mode: Precision and kernels; the batches are brought to its device before.
        peak: How memory is found: :func:`estimated_peak`, or another that calls the function.
    """
    trained = list(model.parameters())
    batch = model.data_preprocessor(training_batch, training=True)
    weights = tensor_bytes((*trained, *model.buffers()))
    optimizer = 2 * tensor_bytes(p for p in trained if p.requires_grad)
    training = peak(partial(_step, model.train(), batch, mode))
    model.zero_grad(set_to_none=True)
    for backbone in find_backbones(model).values():
        backbone.switch_to_deploy()
    batch = model.data_preprocessor(test_batch, training=False)
    test = peak(partial(_predict, model.eval(), batch, mode))
    deployed = tensor_bytes((*model.parameters(), *model.buffers()))
    return ModelMemory(weights, deployed, optimizer, training, test)


def random_training_batch(
    cfg: Config, batch_size: int, size: tuple[int, int], num_objects: int, seed: int = 0
) -> dict[str, Any]:
    """Images with boxes and masks, packed as the config's training pipeline packs its own.

    Args:
        cfg: Config of a detector of mmdet.
        batch_size: Images.
        size: Height and width in pixels.
        num_objects: In each image, all of one class; their sides lie between a 16th and a half of
            the shorter side of the image.
        seed: Of boxes and pixels.

    Raises:
        ValueError: If there is no image or no object.
    """
    if min(batch_size, num_objects) < 1:
        raise ValueError(
            f"expected at least one image and one object, got {batch_size} and {num_objects}"
        )
    # Only where a detector is at hand, as every tool that builds one.
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    pack = TRANSFORMS.build(cfg.train_dataloader.dataset.pipeline[-1])
    random = np.random.default_rng(seed)
    samples = []
    for i in range(batch_size):
        extent = min(size) * 2.0 ** random.uniform(-4, -1, (num_objects, 2))  # width, height
        start = random.uniform(0, 1, extent.shape) * (np.array(size[::-1]) - extent)
        boxes = np.concatenate([start, start + extent], axis=1).astype(np.float32)
        masks = np.zeros((num_objects, *size), dtype=np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
            mask[top:bottom, left:right] = 1
        about = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), flip=False)
        truth = dict(
            gt_bboxes=HorizontalBoxes(torch.from_numpy(boxes)),
            gt_bboxes_labels=np.zeros(num_objects, dtype=np.int64),
            gt_ignore_flags=np.zeros(num_objects, dtype=bool),
            gt_masks=BitmapMasks(masks, *size),
        )
        picture = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        samples.append(pack(dict(img=picture, img_id=i, img_path="", **about, **truth)))
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def _step(model: nn.Module, batch: dict[str, Any], mode: Mode) -> None:
    with mode.running(gradient=True):
        losses = model(**batch, mode="loss")
    loss, _ = model.parse_losses(losses)
    loss.backward()


def _predict(model: nn.Module, batch: dict[str, Any], mode: Mode) -> None:
    with mode.running():
        model(**batch, mode="predict")
