"""How far an exported model may be from PyTorch."""

from typing import NamedTuple


class Limits(NamedTuple):
    """What may differ.

    Attributes:
        difference: Of an output, as a share of its largest value in PyTorch.
        pixels: Of a prepared image, in levels of 0 to 255.
        results: Share of an image's results (labels of pixels or of the image) that differ.
        detections: Share of all detections that the other side has not within 0.1 pixels, with the
            same label, nearly the same score, and masks that overlap by 95 %.
        tie: Scores of two tokens that are nearer than this share of the largest one are a tie:
            which one is kept is a matter of rounding.
    """

    difference: float = 1e-3
    pixels: float = 0.01
    results: float = 0.001
    detections: float = 0.01
    tie: float = 1e-5
