"""Colors of drawn test images of classifiers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch


def test_images_are_drawn_in_their_own_colors() -> None:
    pytest.importorskip("mmpretrain")
    from cropr_mm.hooks.class_visualization_hook import ClassVisualizationHook

    drawn: list[np.ndarray] = []

    def draw(image: np.ndarray, **_: Any) -> None:
        drawn.append(image)

    hook = ClassVisualizationHook.__new__(ClassVisualizationHook)
    hook.enable, hook.interval, hook.out_dir, hook.draw_args = True, 1, None, {}
    hook._visualizer = SimpleNamespace(visualize_cls=draw)
    blue = torch.zeros(3, 4, 4, dtype=torch.uint8)
    blue[0] = 255  # BGR
    batch = {"inputs": [blue], "data_samples": [{}]}
    hook._draw_samples(0, batch, [{}])
    assert drawn[0][0, 0].tolist() == [0, 0, 255], "RGB"
    assert batch["inputs"][0] is blue
