"""An exported model as a function of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cropr_mm.export.runtime.card import Card, card_file, read_card
from cropr_mm.export.runtime.errors import ExportError
from cropr_mm.export.runtime.pixels import Picture, Placed, place_image, read_image
from cropr_mm.export.runtime.results import Result, result_of
from cropr_mm.export.runtime.session import Session, open_session


class ExportedModel:
    """An exported model with what its card says about images.

    Args:
        card: The card.
        session: The open file.
    """

    def __init__(self, card: Card, session: Session) -> None:
        self.card = card
        self.session = session

    def __call__(self, *images: str | Path | Picture) -> list[Result]:
        """Results of images: files, or RGB pictures (h, w, 3) of uint8.

        Returns:
            One dict for each image, see :func:`cropr_mm.export.runtime.results.result_of`.

        Raises:
            ExportError: If one is no image, or does not fit.
        """
        placed = [self.place(image) for image in images]
        outputs = self.run(placed)
        return [
            result_of(self.card.task, [output[i] for output in outputs], one)
            for i, one in enumerate(placed)
        ]

    def place(self, image: str | Path | Picture) -> Placed:
        """An image as the model's input."""
        picture = image if isinstance(image, np.ndarray) else read_image(image)
        return place_image(picture, self.card.input)

    def run(self, placed: Sequence[Placed]) -> list[NDArray]:
        """Outputs for images, in as many calls as a fixed batch needs."""
        inputs = [np.stack([one.pixels for one in placed])]
        if self.card.task == "detector":
            inputs.append(np.array([one.content for one in placed], np.float32))
        count, size = len(placed), self.card.input.batch
        if size is None:
            return self.session.run(*inputs)
        missing = -count % size
        filled = [np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) for x in inputs]
        starts = range(0, count + missing, size)
        calls = [self.session.run(*(x[i : i + size] for x in filled)) for i in starts]
        return [np.concatenate(parts)[:count] for parts in zip(*calls, strict=True)]


def load(path: str | Path, threads: int | None = None) -> ExportedModel:
    """Open an exported model; its card lies beside it.

    Args:
        path: File that ``tools/export.py`` wrote.
        threads: Threads to compute with, or None for the runtime's choice.

    Raises:
        ExportError: If file or card are missing or damaged, or the runtime's package is missing.
    """
    file = Path(path)
    if file.suffix == ".failed":
        raise ExportError(f"{file} did not pass its verification; see {card_file(file)}")
    if not file.is_file():
        raise ExportError(f"expected a file of tools/export.py, found none at {file}")
    card = read_card(card_file(file))
    return ExportedModel(card, open_session(file, card.format, threads, card.dtype))
