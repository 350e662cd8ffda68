"""Draw the results of an exported model on an image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cropr_mm.export.runtime.card import Card
from cropr_mm.export.runtime.pixels import Picture
from cropr_mm.export.runtime.results import Result

_MOST_CLASSES = 3
LEAST_SCORE = 0.3
"""Of detections that are drawn."""


def draw_result(picture: Picture, result: Result, card: Card) -> Picture:
    """A copy of a picture with the results on it.

    Args:
        picture: RGB, shape (h, w, 3).
        result: Of this picture.
        card: Of the model.

    Returns:
        Segmenter: classes in color over the picture. Classifier: names and scores of the best
        classes. Detector: masks and boxes of a score of :data:`LEAST_SCORE` or more. Encoder: the
        norm of the first map, from blue to red.
    """
    if card.task == "segmenter":
        colors = palette_of(card)
        return blend(picture, colors[result["labels"] % len(colors)])
    if card.task == "classifier":
        return _with_text(picture, describe(result, card))
    if card.task == "detector":
        return _with_boxes(picture, result, card)
    first = result["output_0"]
    if first.ndim != 3:
        return picture.copy()
    norm = np.linalg.norm(first.astype(np.float32), axis=0)
    share = (norm - norm.min()) / max(float(np.ptp(norm)), 1e-12)
    heat = np.stack([share, np.zeros_like(share), 1 - share], axis=-1)
    small = Image.fromarray((heat * 255).astype(np.uint8))
    size = (picture.shape[1], picture.shape[0])
    return blend(picture, np.asarray(small.resize(size, Image.Resampling.BILINEAR)))


def describe(result: Result, card: Card) -> str:
    """One line about the results of an image."""
    if card.task == "segmenter":
        labels, counts = np.unique(result["labels"], return_counts=True)
        shares = counts / counts.sum()
        best = np.argsort(-shares, kind="stable")[:_MOST_CLASSES]
        return ", ".join(f"{class_name(card, labels[i])} {shares[i]:.1%}" for i in best)
    if card.task == "classifier":
        scores = result["scores"]
        best = np.argsort(-scores, kind="stable")[:_MOST_CLASSES]
        return ", ".join(f"{class_name(card, i)} {scores[i]:.3f}" for i in best)
    if card.task == "detector":
        seen = [i for i, score in enumerate(result["scores"]) if score >= LEAST_SCORE]
        parts = [f"{class_name(card, result['labels'][i])} {result['scores'][i]:.2f}" for i in seen]
        return ", ".join(parts) or "nothing"
    return ", ".join(f"{name} {'x'.join(map(str, out.shape))}" for name, out in result.items())


def class_name(card: Card, label: int) -> str:
    """Name of a class, or its number where the card has no names."""
    return card.classes[label] if label < len(card.classes) else str(label)


def palette_of(card: Card) -> NDArray[np.uint8]:
    """Color of each class, shape (classes, 3); of hues spread evenly where the card has none."""
    if card.palette:
        return np.array(card.palette, np.uint8)
    hues = np.arange(max(len(card.classes), 2)) * 255 * 0.618 % 255
    hsv = np.stack([hues, np.full_like(hues, 200), np.full_like(hues, 230)], axis=-1)
    return np.asarray(Image.fromarray(hsv[None].astype(np.uint8), "HSV").convert("RGB"))[0]


def blend(picture: Picture, over: NDArray[np.uint8]) -> Picture:
    """Half one picture, half another of its size."""
    return ((picture.astype(np.uint16) + over) // 2).astype(np.uint8)


def _with_text(picture: Picture, text: str) -> Picture:
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    pen.rectangle(pen.textbbox((4, 4), text), fill=(0, 0, 0))
    pen.text((4, 4), text, fill=(255, 255, 255))
    return np.asarray(image)


def _with_boxes(picture: Picture, result: Result, card: Card) -> Picture:
    colors = palette_of(card)
    seen = [i for i, score in enumerate(result["scores"]) if score >= LEAST_SCORE]
    drawn = picture.copy()
    for i in seen:
        if "masks" in result:
            color = colors[result["labels"][i] % len(colors)].astype(np.uint16)
            mask = result["masks"][i]
            drawn[mask] = (drawn[mask] + color) // 2
    image = Image.fromarray(drawn)
    pen = ImageDraw.Draw(image)
    for i in seen:
        color = tuple(int(level) for level in colors[result["labels"][i] % len(colors)])
        left, top, right, bottom = (float(side) for side in result["boxes"][i])
        pen.rectangle((left, top, right, bottom), outline=color)
        pen.text((left + 1, top), class_name(card, result["labels"][i]), fill=color)
    return np.asarray(image)
