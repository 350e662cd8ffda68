"""How far an exported model may be from PyTorch."""

from typing import NamedTuple


class Limits(NamedTuple):
    """What may differ from PyTorch in float32.

    Attributes:
        difference: Of an output, as a share of its largest value.
        rms: Root mean square of that difference, as a share of the output's own.
        agreement: Least mean share of the kept tokens that are the same. At 1 every set has to be
            the same, and an image in which a tie was decided otherwise is left out; below 1 all
            images count.
        pixels: Of a prepared image, in levels of 0 to 255.
        results: Share of an image's results (labels of pixels or of the image) that differ.
        detections: Share of all detections that the other side has not within 0.1 pixels, with the
            same label, nearly the same score, and masks that overlap by 95 %.
        tie: Scores of two tokens that are nearer than this share of the largest one are a tie:
            which one is kept is a matter of rounding.
        metric: Difference of a metric on test images, in points of 100.
    """

    difference: float = 1e-3
    rms: float = 1e-3
    agreement: float = 1.0
    pixels: float = 0.01
    results: float = 0.001
    detections: float = 0.01
    tie: float = 1e-5
    metric: float = 0.1


# Rounding moves single tokens and labels: what counts is how many, and what becomes of the metric.
_ANY = Limits(difference=2.0, results=1.0, detections=1.0)
LIMITS = {
    "fp32": Limits(),
    "fp16": _ANY._replace(rms=0.05, agreement=0.97, metric=0.3),
    "bf16": _ANY._replace(rms=0.15, agreement=0.9, metric=1.0),
    "int8": _ANY._replace(rms=0.3, agreement=0.8, metric=1.0),
}
"""By what the encoder's weights are stored in."""
