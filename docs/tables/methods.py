"""Tables of what there is: reduction methods, and ways to restore tokens."""

from functools import cache

from mmengine.config import Config

from cropr_mm.profiling.fusion_table import fusion_costs
from cropr_mm.profiling.method_table import method_table
from tables.blocks import ROOT
from tables.records import markdown

PUBLISHED = (
    ("311", "304", "56.7"),
    ("183", "304", "56.6"),
    ("", "", ""),  # ours
    ("172", "304", "51.8"),
    ("186", "318", "55.2"),
    ("184", "319", "47.7"),
    ("186", "319", "51.5"),
    ("174", "308", "50.1"),
)
"""Table 5 of the Cropr paper, ADE20k: GMAC, million parameters, mIoU."""


def methods() -> str:
    """All registered reducers."""
    return method_table()


@cache
def fusions() -> str:
    """Cost of each way to restore tokens in the published segmenter, beside the published one."""
    cfg = Config.fromfile(ROOT / "configs/segmentation/cropr_eva02_segmenter_ade20k.py")
    rows = []
    for (title, cost), paper in zip(fusion_costs(cfg).items(), PUBLISHED, strict=True):
        counted = f"{cost.macs_linear / 1e9:.1f}", f"{cost.parameters / 1e6:.1f}"
        rows.append([title, counted[0], paper[0], counted[1], paper[1], paper[2]])
    head = ["fusion", "GMAC, counted", "published", "M parameters, counted", "published"]
    return markdown([*head, "mIoU, published"], rows)
