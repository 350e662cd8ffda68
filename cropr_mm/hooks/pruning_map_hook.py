"""Pictures of which token left after which block, or was merged into which."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from cropr_mm.hooks.draw_predictions import draw_predictions
from cropr_mm.inspection.maps import (
    draw_cluster_legend,
    draw_clusters,
    draw_legend,
    draw_pruning_map,
    input_picture,
)
from cropr_mm.inspection.recorder import PruningRecorder, StepRecorder
from cropr_mm.registry import HOOKS

Image = NDArray[np.uint8]
_MIN_SIDE = 384  # pixels; smaller images are enlarged, or boxes and letters would cover them


@HOOKS.register_module()
class PruningMapHook(Hook):
    """Draws predictions beside the pruning map: patches that left have the color of their block.

    Patches that stayed to the end show the image; a legend names the blocks. Where tokens are
    merged, the patches of each token after the last step have one color. The picture goes to
    the runner's visualizer, that is to every backend that it has, and as a PNG file to ``out_dir``.

    Args:
        interval: Draw the first image of one batch in so many.
        max_images: Most images of one run; None for no limit.
        out_dir: Folder of the files, relative to the runner's working folder; None writes none.
        draw_val: Whether to draw in validation, too.
        score_thr: Least score of the predictions drawn.

    Raises:
        ValueError: If a number is below 1, the model has no pruned backbone, or it sees an image in
            several crops.
    """

    priority = "LOW"

    def __init__(
        self,
        interval: int = 50,
        max_images: int | None = None,
        out_dir: str | None = "vis",
        draw_val: bool = False,
        score_thr: float = 0.3,
    ) -> None:
        if interval < 1 or (max_images is not None and max_images < 1):
            raise ValueError(
                f"expected interval and max_images of at least 1, got {interval} and {max_images}"
            )
        self.interval = interval
        self.max_images = max_images
        self.out_dir = out_dir
        self.draw_val = draw_val
        self.score_thr = score_thr
        self._steps = StepRecorder()
        self._num_drawn = 0

    def before_test(self, runner: Runner) -> None:
        """Find the encoder to record."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if (getattr(model, "test_cfg", None) or {}).get("mode") == "slide":
            raise ValueError(
                "PruningMapHook expects one pass of the encoder per image, got "
                "test_cfg.mode='slide', one for each crop; set 'whole', or leave the hook out"
            )

    def before_val(self, runner: Runner) -> None:
        """As before a test, where validation is drawn."""
        if self.draw_val:
            self.before_test(runner)

    def before_test_epoch(self, runner: Runner) -> None:
        """Count drawn images anew."""
        self._num_drawn = 0

    def before_val_epoch(self, runner: Runner) -> None:
        """Count drawn images anew."""
        self._num_drawn = 0

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Record the tokens of the next batch until enough images are drawn."""
        enough = self.max_images is not None and self._num_drawn >= self.max_images
        if batch_idx % self.interval == 0 and not enough:
            self._steps.start(runner.model)

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """As in a test, where validation is drawn."""
        if self.draw_val:
            self.before_test_iter(runner, batch_idx, data_batch)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw the pruning maps of the batch."""
        recorder = self._steps.stop()
        if recorder is not None and outputs:
            self._draw(runner, _image(data_batch, outputs[0]), outputs[0], recorder)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """As in a test."""
        self.after_test_iter(runner, batch_idx, data_batch, outputs)

    def _draw(
        self, runner: Runner, image: Image, sample: BaseDataElement, recorder: PruningRecorder
    ) -> None:
        zoom = max(1, -(-_MIN_SIDE // min(image.shape[:2])))
        image = mmcv.imrescale(image, float(zoom), interpolation="nearest")
        left, clusters = recorder.maps()[0].numpy(), recorder.clusters()
        side = recorder.backbone.patch_size
        height, width = sample.img_shape[:2]  # of the resized image, without padding
        blocks = sorted(int(block) for block in recorder.backbone.reducers)
        if clusters is None:
            covered = left.repeat(side, 0).repeat(side, 1)[:height, :width]
            tokens = draw_pruning_map(image, covered, blocks)
        else:
            filled = height / (left.shape[0] * side), width / (left.shape[1] * side)
            tokens = draw_clusters(image, clusters[0].numpy(), filled)
        picture = np.concatenate(
            [
                draw_predictions(runner.visualizer, image, sample, zoom, self.score_thr),
                np.full((image.shape[0], 8, 3), 255, np.uint8),
                tokens,
            ],
            axis=1,
        )
        width = picture.shape[1]
        legend = draw_legend(width, blocks) if clusters is None else draw_cluster_legend(width)
        picture = np.concatenate([picture, legend])
        name = Path(sample.img_path).stem
        runner.visualizer.add_image(f"pruning_map_{name}", picture, runner.iter)
        if self.out_dir is not None:
            file = Path(runner.work_dir) / self.out_dir / f"{name}.png"
            mmcv.imwrite(picture[..., ::-1], str(file))
        self._num_drawn += 1


def _image(data_batch: Mapping[str, Any] | None, sample: BaseDataElement) -> Image:
    """What predictions are drawn on, shape (H, W, 3), RGB.

    The file; of a classifier, whose picture is often a crop of it, the input itself.
    """
    if data_batch is not None and "pred_label" in sample:
        return input_picture(data_batch["inputs"][0])
    return mmcv.imfrombytes(get(sample.img_path), channel_order="rgb")
