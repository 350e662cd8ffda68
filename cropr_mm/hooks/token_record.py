"""Record of what an encoder does with the tokens of a test set."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from cropr_mm.analysis.benchmark import only_backbone
from cropr_mm.analysis.token_record import TokenRecorder
from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class TokenRecordHook(Hook):
    """In a test of one process: write a :class:`cropr_mm.analysis.token_record.TokenRecord`.

    Args:
        out_file: File to write, .npz.
        blocks: 0-based blocks whose features are recorded; default: those that reduce, and the
            last.

    Raises:
        ValueError: Before the test, if the model has not exactly one CroprViT, or several processes
            run.
    """

    priority = "VERY_LOW"

    def __init__(self, out_file: str, blocks: Sequence[int] | None = None) -> None:
        self.out_file = Path(out_file)
        self.blocks = None if blocks is None else tuple(blocks)

    def before_test(self, runner: Runner) -> None:
        if runner.world_size > 1:
            raise ValueError(f"tokens are recorded by one process, got {runner.world_size}")
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._recorder = TokenRecorder(only_backbone(model)[1], self.blocks).__enter__()

    def after_test(self, runner: Runner) -> None:
        self._recorder.__exit__()
        self._recorder.record().save(self.out_file)
