"""What scores could bring that know the labels of the very image.

B images, N live patch tokens, K classes, h x w patch grid.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from cropr_mm.backbones.lookup import find_vits
from cropr_mm.preflight import SetupError
from cropr_mm.reducers import RandomPruner
from cropr_mm.registry import HOOKS
from cropr_mm.structures import Signals, Tokens


@HOOKS.register_module()
class LabelOracleHook(Hook):
    """Makes ``RandomPruner`` keep the patches whose classes are rare in their image.

    A pixel is worth one over the share of its class among the labelled pixels, a patch the mean
    over its pixels: every class of the image has the same worth in all, as in mIoU. It reads the
    ground truth in testing too, so it is no method but a measure: where even this keeps no more
    accuracy than random pruning, the data and the model give scores nothing to gain.

    Args:
        num_classes: K of the segmenter.
        ignore_index: Label of pixels without a class.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._worth: Tensor | None = None

    def before_run(self, runner: Runner) -> None:
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        if (getattr(model, "test_cfg", None) or {}).get("mode") == "slide":
            raise SetupError("LabelOracleHook expected test_cfg.mode='whole', got 'slide'")
        model.register_forward_pre_hook(self._read_labels, with_kwargs=True)
        for backbone in find_vits(model).values():
            for reducer in backbone.reducers.values():
                if not isinstance(reducer, RandomPruner):
                    raise SetupError(
                        f"LabelOracleHook expected RandomPruner, got {type(reducer).__name__}"
                    )
                reducer.register_forward_pre_hook(self._tell)
            self._patch = backbone.patch_size

    def _read_labels(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        images = args[0] if args else kwargs["inputs"]
        samples = kwargs["data_samples"] if "data_samples" in kwargs else args[1]
        size = tuple(images.shape[-2:])
        self._worth = torch.cat([self._of_sample(s, size).to(images.device) for s in samples])

    def _of_sample(self, sample: BaseDataElement, size: tuple[int, int]) -> Tensor:
        """Worth of each patch (1, h * w) of an image padded to this size, from 0 to 1."""
        labels = sample.gt_sem_seg.data[None].float()  # (1, 1, H, W)
        if tuple(labels.shape[-2:]) != size:  # of a test image: at its own size, without padding
            inner = tuple(sample.get("img_shape", size))[:2]
            labels = F.interpolate(labels, size=inner, mode="nearest")
            padding = (0, size[1] - inner[1], 0, size[0] - inner[0])
            labels = F.pad(labels, padding, value=float(self.ignore_index))
        labels = labels[0, 0].long()
        known = labels != self.ignore_index
        count = torch.bincount(labels[known], minlength=self.num_classes).float()
        worth = torch.where(known, 1 / count[labels.clamp(max=self.num_classes - 1)], 0.0)
        patches = F.avg_pool2d(worth[None, None], self._patch).flatten(1)
        return patches / patches.amax().clamp(min=1e-12)

    def _tell(
        self, reducer: nn.Module, args: tuple[Tokens, int, Signals]
    ) -> tuple[Tokens, int, Signals]:
        tokens, num_keep, signals = args
        assert self._worth is not None, "the model was called before its reducers"
        return tokens, num_keep, signals._replace(noise=self._worth.gather(1, tokens.index))
