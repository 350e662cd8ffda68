"""The card beside an exported model: what a program has to know to use it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cropr_mm.export.runtime.errors import ExportError

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "aoti": ".pt2"}
"""Formats and how the names of their files end."""

DTYPES = ("fp32", "fp16", "bf16", "int8")
"""What the encoder's weights are stored in."""

TASKS = ("encoder", "segmenter", "classifier", "detector")


@dataclass(frozen=True)
class Input:
    """From an image to the model's input.

    Attributes:
        size: Height and width of the input, in pixels.
        batch: Images of one call, or None where any number goes.
        steps: What is done to the picture, in order: dicts with 'op', see
            :func:`cropr_mm.export.runtime.pixels.apply_step`.
        mean: Subtracted from each channel, levels of 0 to 255.
        std: Divides each channel after that.
        channels: Order of the channels, 'rgb' or 'bgr'; mean and std are in this order.
        pads: Whether a smaller picture is padded at the right and the bottom.
        pad_value: With what, after normalization.
    """

    size: tuple[int, int]
    batch: int | None
    steps: tuple[Mapping[str, Any], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str
    pads: bool
    pad_value: float = 0.0


@dataclass(frozen=True)
class Card:
    """Description of one exported model.

    Attributes:
        format: Of :data:`FORMATS`.
        task: Of :data:`TASKS`.
        input: From an image to the model's input.
        classes: Names of the classes, or none.
        palette: Color (r, g, b) of each class, or none.
        dtype: Of :data:`DTYPES`.
        about: Everything that running it does not need: sizes, versions, verification.
    """

    format: str
    task: str
    input: Input
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    dtype: str = "fp32"
    about: Mapping[str, Any] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def card_file(model: Path) -> Path:
    """Where the card of a model's file is; a failed export keeps its name in both files."""
    return model.with_name(f"{model.name}.json")


def read_card(file: Path) -> Card:
    """Read a card.

    Raises:
        ExportError: If there is none, or it is no such card.
    """
    if not file.is_file():
        raise ExportError(
            f"expected a file of tools/export.py with its card beside it, found no card at {file}"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        given = content.pop("input")
        pairs = {name: tuple(given[name]) for name in ("size", "steps", "mean", "std")}
        palette = tuple((int(r), int(g), int(b)) for r, g, b in content.pop("palette"))
        classes = tuple(content.pop("classes"))
        card = Card(**content, input=Input(**{**given, **pairs}), classes=classes, palette=palette)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExportError(f"expected the card of an exported model, got {file}: {error}") from error
    for name, value, known in (
        ("format", card.format, FORMATS),
        ("task", card.task, TASKS),
        ("dtype", card.dtype, DTYPES),
    ):
        if value not in known:
            raise ExportError(
                f"{file}: expected {name} of {', '.join(known)}, got {value!r} (a newer version "
                "may have written it)"
            )
    return card
