"""The table of docs/analysis.md is that of the measurement beside it."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_documents_show_the_numbers_of_the_measurement() -> None:
    found = json.loads((ROOT / "benchmarks/results/tokens_camvid_small.json").read_text())
    text = (ROOT / "docs/analysis.md").read_text()
    scores = found["proxies"]["scores"]
    for name, other in found["others"].items():
        patches, features = other["patches"], other["features"]
        assert (patches[3]["blocks"], patches[7]["blocks"]) == ([3, 3], [7, 7])
        assert (features[7]["blocks"], features[8]["blocks"]) == ([7, 7], [9, 9])
        values = [patches[step]["intersection_over_union"]["mean"] for step in (3, 7)]
        values += other["depth_maps"].values()
        values += [features[i][metric] for i in (7, 8) for metric in ("procrustes", "cka")]
        cells = [f"`{name}`", f"{scores[name]:.1f}", *(f"{value:.3f}" for value in values)]
        assert f"| {' | '.join(cells)} |" in text
    assert f"`cropr` has {scores['cropr']:.1f} mIoU" in text
    fused, random = (100 * found["models"][n]["neighbours"]["share"] for n in ("cropr", "random"))
    assert f"{fused:.0f} % with\nfusion" in text
    assert f"fusion\nleaves {random:.0f} %" in text
