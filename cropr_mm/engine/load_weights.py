"""Weights of a checkpoint into a model, once their names and shapes are known to fit."""

from collections.abc import Callable
from typing import Any

from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner, load_state_dict
from torch import nn

from cropr_mm.backbones.find import find_backbones
from cropr_mm.checkpoints.content import as_checkpoint
from cropr_mm.checkpoints.queries import collapse_queries
from cropr_mm.engine.checkpoint_io import drop_token_norm, resample_queries
from cropr_mm.engine.preflight import (
    check_encoder,
    check_model,
    check_plans_of,
)
from cropr_mm.engine.resume import check_resumable
from cropr_mm.engine.trainable import check_frozen, trains_routers


def load_weights(
    runner: Runner | FlexibleRunner,
    model: nn.Module,
    filename: str,
    strict: bool,
    map_location: str | Callable = "cpu",
    revise_keys: list = [(r"^module.", "")],  # noqa: B006 - mmengine's default
) -> dict[str, Any]:
    """Load a checkpoint completely, or for fine-tuning with other heads at most.

    Args:
        runner: Runner with its loops; its hooks may change what was read.
        model: The runner's model, unwrapped.
        filename: File or address.
        strict: Whether every parameter of the model and no other must be there.
        map_location: Where tensors go, as in ``torch.load``.
        revise_keys: Replacements in names, as in mmengine.

    Returns:
        The checkpoint.

    Raises:
        SetupError: If names or shapes do not fit, see :func:`check_encoder`, or a training cannot
            go on from it.
        CheckpointError: If the file is damaged or holds code.
    """
    content = CheckpointLoader.load_checkpoint(filename, map_location)
    checkpoint = as_checkpoint(content, filename, revise_keys)
    weights = checkpoint["state_dict"]
    if strict:
        collapse_queries(weights, model)
        check_model(model, weights, filename, checkpoint)
        check_plans_of(model, checkpoint["meta"], filename)
        if runner._resume:
            check_resumable(runner, checkpoint, filename)
    else:
        for path, backbone in find_backbones(model).items():
            resample_queries(weights, backbone, path, checkpoint)
            drop_token_norm(weights, backbone, path, checkpoint)
        check_encoder(model, weights, filename, checkpoint)
        if trains_routers(runner.cfg):
            check_frozen(model, weights, filename)
    # Hooks may put other weights of these names there, such as averaged ones.
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    load_state_dict(model, weights, strict, logger="silent")  # differences are checked above
    runner.logger.info(f"Load checkpoint from {filename}")
    return checkpoint
