"""Record of what an encoder does with the tokens of a test set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from cropr_mm.backbones.find import only_backbone
from cropr_mm.inspection.maps import Image, input_picture, padded
from cropr_mm.inspection.token_record import TokenRecorder
from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class TokenRecordHook(Hook):
    """In a test of one process: write a :class:`cropr_mm.inspection.token_record.TokenRecord`.

    Args:
        out_file: File to write, .npz.
        blocks: 0-based blocks whose features are recorded; default: those that reduce, and the
            last.
        num_pictures: Images, spread evenly over the test set, that the record has for pictures. An
            image larger than the encoder's input, of which it saw crops, is none.

    Raises:
        ValueError: Before the test, if the model has not exactly one backbone, or several processes
            run.
    """

    priority = "VERY_LOW"

    def __init__(
        self, out_file: str, blocks: Sequence[int] | None = None, num_pictures: int = 0
    ) -> None:
        self.out_file = Path(out_file)
        self.blocks = None if blocks is None else tuple(blocks)
        self.num_pictures = num_pictures

    def before_test(self, runner: Runner) -> None:
        """Start recording."""
        if runner.world_size > 1:
            raise ValueError(f"tokens are recorded by one process, got {runner.world_size}")
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._recorder = TokenRecorder(only_backbone(model)[1], self.blocks).__enter__()
        total = len(runner.test_dataloader.dataset)
        count = min(self.num_pictures, total)
        self._wanted = {(2 * i + 1) * total // (2 * count) for i in range(count)}
        self._pictures: dict[int, Image] = {}
        self._num_seen = 0

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Keep the pictures of the images that are drawn."""
        inputs = data_batch["inputs"] if data_batch else []
        for number, image in enumerate(inputs, start=self._num_seen):
            if number in self._wanted:
                self._pictures[number] = input_picture(image)
        self._num_seen += len(inputs)

    def after_test(self, runner: Runner) -> None:
        """Stop recording."""
        self._recorder.__exit__()
        record = self._recorder.record()
        size = [cells * self._recorder.backbone.patch_size for cells in record.grid]
        shown = {
            number: padded(image, (size[0], size[1]))
            for number, image in self._pictures.items()
            if image.shape[0] <= size[0] and image.shape[1] <= size[1]
        }
        if shown:
            pictures = np.stack(list(shown.values()))
            record = replace(record, shown=tuple(shown), pictures=pictures)
        record.save(self.out_file)
