"""The final norm acts on tokens or on their mean; the weights of one are no start for the other.

timm and MAE call it ``norm`` in the first place and ``fc_norm`` in the second. Fine-tuning with
average pooling, MAE's and Token Cropr's, leaves the pre-trained ``norm`` away and starts anew.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from cropr_mm.checkpoints.grid import stored_out_type
from cropr_mm.checkpoints.new_parts import is_new

_POOLED = ("avg_featmap", "avg_all")
FINAL_NORM = ("norm.weight", "norm.bias")
_POOLED_NORM = "fc_norm.weight"


def leave_token_norm(
    weights: dict[str, Tensor], backbone: nn.Module, checkpoint: Mapping[str, Any], prefix: str
) -> list[str]:
    """Remove the final norm of tokens from weights, in place, where a backbone norms their mean.

    The config in a file tells what its norm acts on. Without one, the file of an encoder alone has
    timm's names, and any other is taken to be of the model that it goes into.

    Args:
        weights: Weights of an encoder by name in the file, without ``prefix``.
        backbone: What they are for; read, not changed.
        checkpoint: What the file holds.
        prefix: Name of the encoder in the file, such as 'backbone.', empty for an encoder alone.

    Returns:
        The names that were removed.
    """
    if not norms_mean(backbone):
        return []
    out_type = stored_out_type(checkpoint, prefix)
    if out_type in _POOLED or (out_type is None and (prefix or not _norms_tokens(weights))):
        return []
    return [name for name in FINAL_NORM if weights.pop(name, None) is not None]


def norms_mean(backbone: nn.Module) -> bool:
    """Whether the final norm of an encoder acts on the mean of its tokens."""
    arch = getattr(backbone, "arch", None)  # encoders of several stages have none
    return getattr(arch, "norm_after_pool", False) and backbone.out_type in _POOLED


def _norms_tokens(names: Collection[str]) -> bool:
    """Whether names of timm, or of a file that timm reads, are those of a norm of tokens."""
    ours = any(is_new(name) for name in names)
    return FINAL_NORM[0] in names and _POOLED_NORM not in names and not ours
