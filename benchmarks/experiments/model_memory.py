"""Memory that a whole model needs in test and training, heads and post-processing included.

Estimated without computing products, or on a GPU measured. What the estimate does not see is what
:mod:`experiments.encoder_memory` does not see, and the memory of detections of real weights: here
the first proposals and as many detections as the settings allow are taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cropr_mm.backbones.find import find_backbones
from cropr_mm.profiling.run_mode import Mode
from experiments.encoder_memory import peak_bytes, tensor_bytes
from experiments.zero_matmuls import zero_matmuls

Peak = Callable[[Callable[[], object]], int]


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a model needs to train on one batch; attributes as those of ModelMemory."""

    weights: int
    optimizer: int
    training: int


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
        training_batch: As a data loader gives it, see
            :func:`experiments.training_batch.random_training_batch`.
        test_batch: The same for test.
        mode: Precision and kernels; the batches are brought to its device before.
        peak: How memory is found: :func:`estimated_peak`, or another that calls the function.
    """
    need = training_memory(model, training_batch, mode, peak)
    for backbone in find_backbones(model).values():
        backbone.switch_to_deploy()
    batch = model.data_preprocessor(test_batch, training=False)
    test = peak(partial(_predict, model.eval(), batch, mode))
    deployed = tensor_bytes((*model.parameters(), *model.buffers()))
    return ModelMemory(need.weights, deployed, need.optimizer, need.training, test)


def training_memory(
    model: nn.Module, batch: dict[str, Any], mode: Mode, peak: Peak = estimated_peak
) -> TrainingMemory:
    """Run a step of training; arguments as those of :func:`model_memory`.

    Batch norms take their stored statistics where there is one image, since a map that is pooled to
    one cell has none then; that needs as much memory.
    """
    batch = model.data_preprocessor(batch, training=True)
    parameters = list(model.parameters())
    weights = tensor_bytes((*parameters, *model.buffers()))
    optimizer = 2 * tensor_bytes(p for p in parameters if p.requires_grad)
    model.train()
    if len(batch["inputs"]) == 1:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    training = peak(partial(training_step, model, batch, mode))
    model.zero_grad(set_to_none=True)
    return TrainingMemory(weights, optimizer, training)


def training_step(model: nn.Module, batch: dict[str, Any], mode: Mode) -> None:
    """Forward and backward pass on a preprocessed batch."""
    with mode.running(gradient=True):
        losses = model(**batch, mode="loss")
    loss, _ = model.parse_losses(losses)
    loss.backward()


def _predict(model: nn.Module, batch: dict[str, Any], mode: Mode) -> None:
    with mode.running():
        model(**batch, mode="predict")
