"""Static int8 quantization of an encoder's linear layers in an ONNX file.

Everything else stays in float32: attention, norms, scores and selection, and what follows the
encoder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.runtime.card import Card
from cropr_mm.export.runtime.pixels import place_image, read_image
from cropr_mm.export.runtime.session import need


def quantize(file: Path, card: Card, pictures: Sequence[Path]) -> None:
    """Quantize the linear layers of an ONNX file's encoder, in place.

    Weights get seven bits for each channel, since sums of eight-bit products saturate on processors
    without VNNI; activations get eight, whose ranges are the smallest and largest values seen.

    Args:
        file: In float32.
        card: Of the file.
        pictures: Image files that the ranges are found on.

    Raises:
        SetupError: If there is no linear layer in the file's encoder.
        ExportError: If a package is missing.
    """
    tools = need("onnxruntime.quantization")
    layers = linear_layers(need("onnx").load(file, load_external_data=False))
    if not layers:
        raise SetupError("expected linear layers in the encoder's blocks to quantize, found none")
    source = file.with_suffix(".fp32.onnx")
    file.rename(source)
    tools.quantize_static(
        source,
        file,
        Calls(_inputs_of(source), card, pictures),
        per_channel=True,
        reduce_range=True,
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
        nodes_to_quantize=layers,
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )
    source.unlink()


class Calls:
    """What ONNX Runtime finds the ranges on: the graph's inputs for all pictures, call by call.

    Args:
        names: Of the inputs.
        card: Of the file.
        pictures: Image files.
    """

    def __init__(self, names: list[str], card: Card, pictures: Sequence[Path]) -> None:
        self.names = names
        self.rest = _calls(card, pictures)

    def get_next(self) -> dict[str, NDArray] | None:
        """Inputs of the next call by name; None after the last one."""
        arrays = next(self.rest, None)
        return None if arrays is None else dict(zip(self.names, arrays, strict=True))


def linear_layers(model: Any) -> list[str]:
    """Names of the nodes that multiply by weights inside of the encoder's blocks."""
    weights = {tensor.name for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        inside = ".blocks." in notes.get("pkg.torch.onnx.name_scopes", "")
        if inside and node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            names.append(node.name)
    return names


def _inputs_of(file: Path) -> list[str]:
    graph = need("onnx").load(file, load_external_data=False).graph
    return [given.name for given in graph.input]


def _calls(card: Card, pictures: Sequence[Path]) -> Iterator[tuple[NDArray, ...]]:
    """Inputs of the graph's calls on all pictures; the last ones fill up a fixed batch."""
    batch = card.input.batch or 1
    for start in range(0, len(pictures), batch):
        some = [*pictures[start : start + batch]]
        some += [some[-1]] * (batch - len(some))
        placed = [place_image(read_image(file), card.input) for file in some]
        images = np.stack([one.pixels for one in placed])
        if card.task == "detector":
            yield images, np.array([one.content for one in placed], np.float32)
        else:
            yield (images,)
