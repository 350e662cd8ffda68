"""Low-rank adapters in a checkpoint belong to adapters of the same settings in the model."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cropr_mm.backbones.find import find_vits
from cropr_mm.backbones.lora import adapter_scale
from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.grid import stored_adapter_scale
from cropr_mm.checkpoints.load import check_shapes
from cropr_mm.checkpoints.new_parts import LORA
from cropr_mm.engine.preflight.errors import SetupError


def check_adapters(
    model: nn.Module, weights: Mapping[str, Tensor], label: str, checkpoint: Mapping[str, Any]
) -> None:
    """Compare the adapters of a checkpoint with those of the model that it goes into.

    A checkpoint without adapters passes: those of the model are neutral at first.

    Args:
        model: Model.
        weights: Name in the model -> tensor.
        label: What to call the checkpoint in messages.
        checkpoint: Where ``weights`` are from; a config in it tells the scale of its adapters.

    Raises:
        SetupError: If the model has none, or others in rank or scale.
    """
    target = model.state_dict()
    for path, encoder in find_vits(model).items():
        prefix = f"{path}." if path else ""
        stored = [name for name in weights if name.startswith(prefix) and LORA in name]
        if not stored:
            continue
        scale, expected = adapter_scale(encoder), stored_adapter_scale(checkpoint, path)
        if scale is None:
            raise SetupError(
                f"{label} has low-rank adapters: expected {prefix}lora in the config as in its "
                "training, got none"
            )
        try:
            check_shapes({n: weights[n] for n in stored if n in target}, target, label)
        except CheckpointError as error:
            raise SetupError(f"{error}\nexpected {prefix}lora as in its training") from error
        if expected is not None and expected != scale:
            raise SetupError(
                f"{label} was trained with adapters of alpha / r = {expected:g}: expected the same "
                f"in {prefix}lora, got {scale:g}"
            )
