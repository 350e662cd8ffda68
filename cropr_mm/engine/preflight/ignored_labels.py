"""Labels without a class: data set, padding, heads and targets agree on them.

Otherwise a loss fails after some iterations ('Target 255 is out of bounds'), or padding is learned
as a class without a word.
"""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.model import parts_at


def check_ignored(
    model: nn.Module, targets: Mapping[str, Any], labels: Collection[int], where: str
) -> None:
    """Heads and targets ignore every label of the training data that is no class.

    Args:
        model: Unwrapped model; heads at the usual places of mmseg are looked at.
        targets: Targets of auxiliary modules, by the name for messages.
        labels: Labels of the maps that were looked at; without any nothing is compared.
        where: Name of the dataset for the message.

    Raises:
        SetupError: If a head or target takes such a label, or that of padding, for a class.
    """
    if not labels:
        return
    padding = _padding(model)
    heads = {
        name: h for path in ("decode_head", "auxiliary_head") for name, h in parts_at(model, path)
    }
    for name, reader in (heads | dict(targets)).items():
        ignored, number = (getattr(reader, key, None) for key in ("ignore_index", "num_classes"))
        if not isinstance(ignored, int) or not isinstance(number, int):
            continue
        sources = {f"the label maps of {where}": labels, "padding (seg_pad_val)": padding}
        for source, found in sources.items():
            unknown = sorted(x for x in found if not 0 <= x < number and x != ignored)
            if unknown:
                raise SetupError(
                    f"{name} has ignore_index={ignored} and {number} classes, but {unknown[0]} is "
                    f"in {source}: set ignore_index={unknown[0]}, or that label to {ignored}"
                )
        learned = sorted(x for x in padding if 0 <= x < number and x != ignored)
        if learned and name in heads:
            warnings.warn(
                f"data_preprocessor has seg_pad_val={learned[0]}, which is a class: {name} learns "
                f"it from the padding of images; expected its ignore_index={ignored}",
                stacklevel=2,
            )


def _padding(model: nn.Module) -> set[int]:
    """Label of padding, if images are padded."""
    preprocessor = getattr(model, "data_preprocessor", None)
    pads = any(getattr(preprocessor, key, None) for key in ("size", "size_divisor"))
    label = getattr(preprocessor, "seg_pad_val", None)
    return {int(label)} if pads and label is not None else set()
