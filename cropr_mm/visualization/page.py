"""One self-contained HTML page, which loads nothing from elsewhere."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from cropr_mm.inspection.maps import Image, padded
from cropr_mm.profiling.encoder_cost import EncoderCost, encoder_cost
from cropr_mm.profiling.meta import meta_twin
from cropr_mm.visualization.predictions import predicted, zoom_of
from cropr_mm.visualization.tokens import token_data
from cropr_mm.visualization.trained import TrainedModel

_FOLDER = Path(__file__).parent
_LOSSLESS = 512 * 512  # pixels; larger pictures are photographs, and JPEG keeps the page small


class Page:
    """Collects what models make of images, for :func:`page_html`.

    Args:
        models: In the order of the page, under different names.
        score_thr: Least score of the detections drawn.
    """

    def __init__(self, models: Sequence[TrainedModel], score_thr: float = 0.3) -> None:
        self.models = models
        self.score_thr = score_thr
        self._images: list[dict[str, Any]] = []
        self._pictures: dict[str, int] = {}
        self._costs: dict[tuple[int, tuple[int, int]], EncoderCost] = {}

    def add(self, file: str) -> None:
        """Show an image file to every model.

        Raises:
            SetupError: If it does not fit one of them.
        """
        panels = [self._panel(i, file) for i in range(len(self.models))]
        self._images.append({"name": file, "panels": panels})

    def data(self) -> dict[str, Any]:
        """What the page shows, in plain types; pictures are data addresses, named by number."""
        keys = list(self._costs)
        return {
            "models": [model.name for model in self.models],
            "images": self._images,
            "pictures": list(self._pictures),
            "costs": [
                {
                    "size": size,
                    "tokens": [block.tokens for block in self._costs[model, size].blocks],
                    "macs": [block.macs.total for block in self._costs[model, size].blocks],
                    "total": self._costs[model, size].macs.total,
                }
                for model, size in keys
            ],
        }

    def _panel(self, number: int, file: str) -> dict[str, Any]:
        """What one model makes of an image."""
        model = self.models[number]
        seen = model.look(file)
        tokens = token_data(model.backbone, seen.tokens)
        height, width = (cells * tokens["patch"] for cells in tokens["grid"])
        key = (number, (height, width))
        if key not in self._costs:
            self._costs[key] = encoder_cost(meta_twin(model.backbone), key[1])
        zoom = zoom_of(seen.image)
        picture, text = predicted(seen.image, zoom, seen.sample, model.meta, self.score_thr)
        if picture is not None:  # as large as the patches beside it
            text["picture"] = self._number(padded(picture, (height * zoom, width * zoom)))
        return {
            "tokens": tokens,
            "cost": list(self._costs).index(key),
            "input": self._number(padded(seen.image, (height, width))),
            "zoom": zoom,
            "predicted": text,
        }

    def _number(self, image: Image) -> int:
        """Number of a picture on the page; equal ones are stored once."""
        return self._pictures.setdefault(data_address(image), len(self._pictures))


def page_html(data: Mapping[str, Any]) -> str:
    """The page of some data, see :meth:`Page.data`."""
    # "<" could end the element that holds the data; the page takes every text as text.
    parts = {
        "STYLE": _file("page.css"),
        "SCRIPT": _file("page.js"),
        "DATA": json.dumps(data).replace("<", "\\u003c"),
    }
    page = _file("page.html")
    for name, text in parts.items():
        page = page.replace(f"@{name}@", text)
    return page


def data_address(image: Image) -> str:
    """A picture, shape (H, W, 3), RGB, as the text that takes the place of its address."""
    small = image.shape[0] * image.shape[1] <= _LOSSLESS
    suffix, options = (".png", []) if small else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90])
    _, content = cv2.imencode(suffix, image[..., ::-1], options)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.tobytes()).decode()}"


def _file(name: str) -> str:
    return (_FOLDER / name).read_text()
