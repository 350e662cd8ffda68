"""What a verification found, and whether it is within the limits."""

from dataclasses import dataclass, field

from cropr_mm.export.evaluation import Metrics
from cropr_mm.export.limits import Limits


@dataclass
class Verification:
    """What was compared with PyTorch and found.

    Attributes:
        images: Names of the images.
        difference: Largest of an output of the shipped file, as :class:`Limits` measures it.
        instrumented: The same of the file that returns kept ids.
        rms: Largest root mean square of the shipped file's differences, measured as there.
        pixels: Largest of a prepared image, in levels.
        results: Largest share of results that differ; None where the part gives maps only.
        detections: Of both sides in all images.
        unmatched: Those that the other side has not.
        kept_equal: Steps of images that kept the same tokens.
        kept_total: All steps of images that could be compared.
        kept_shared: Sum over those of the share of tokens that both sides kept.
        ties: Images in which equal scores were decided otherwise; their outputs do not count.
        metrics: On test images, where asked for.
        faults: What is outside the limits; empty where the export is good.
    """

    images: list[str] = field(default_factory=list)
    difference: float = 0.0
    instrumented: float = 0.0
    rms: float = 0.0
    pixels: float = 0.0
    results: float | None = None
    detections: int = 0
    unmatched: int = 0
    kept_equal: int = 0
    kept_total: int = 0
    kept_shared: float = 0.0
    ties: int = 0
    metrics: Metrics | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def agreement(self) -> float:
        """Mean share of kept tokens that both sides kept; 1 where nothing was reduced."""
        return self.kept_shared / self.kept_total if self.kept_total else 1.0

    def __str__(self) -> str:
        kept = (
            f"{self.kept_equal} of {self.kept_total} equal, {self.ties} ties, "
            f"{self.agreement:.2%} of the tokens the same"
        )
        lines = [
            f"images      {len(self.images)} ({', '.join(self.images)})",
            f"outputs     differ by {self.difference:.1e} of the largest value, rms {self.rms:.1e}",
            f"kept sets   {kept if self.kept_total or self.ties else 'none, no token is removed'}",
            f"inputs      differ by {self.pixels:.2g} levels of 255",
        ]
        if self.results is not None:
            lines.append(f"results     {self.results:.3%} differ from the host library's")
        if self.detections:
            lines.append(f"detections  {self.detections}, {self.unmatched} of one side only")
        if self.metrics is not None:
            lines.append(str(self.metrics))
        return "\n".join([*lines, *(f"FAULT       {fault}" for fault in self.faults)])

    def judge(self, limits: Limits) -> None:
        """Add the faults of everything that was compared."""
        if self.ties == len(self.images):
            self.faults.append("every image has ties: nothing was compared")
        share = self.unmatched / max(self.detections, 1)
        # Where every set has to be the same, each other one is a fault already.
        lost = 0.0 if limits.agreement == 1 else 1 - self.agreement
        for what, value, limit in (
            ("outputs of the file differ", self.difference, limits.difference),
            ("outputs of the file with kept ids differ", self.instrumented, limits.difference),
            ("outputs of the file differ, root mean square,", self.rms, limits.rms),
            ("kept tokens differ, as a share,", lost, 1 - limits.agreement),
            ("prepared images differ, in levels,", self.pixels, limits.pixels),
            ("results of an image differ, as a share,", self.results or 0.0, limits.results),
            ("detections differ, as a share,", share, limits.detections),
            ("metrics differ, in points,", self.points, limits.metric),
        ):
            if not value <= limit:
                self.faults.append(f"{what} by {value:.2g}, more than {limit:g}")

    @property
    def points(self) -> float:
        """Largest difference of a metric, in points of 100; 0 where there is none."""
        return self.metrics.points if self.metrics is not None else 0.0
