"""Speed of the model under test against its own dense twin, in the same run."""

import json
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from cropr_mm.backbones.find import only_backbone
from cropr_mm.profiling.benchmark_record import format_benchmark
from cropr_mm.profiling.dense_vs_pruned import benchmark_model
from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class CroprBenchmarkHook(Hook):
    """After a test: times of encoder and whole model, pruned against dense.

    Both run on the first batch of the test data in the precision of the test loop; see
    :func:`cropr_mm.profiling.dense_vs_pruned.benchmark_model`. Tables go to the log, everything to
    ``benchmark.json`` in the working folder.

    Args:
        rounds: Timed calls of each.
        warmup: Calls of each before that.

    Raises:
        ValueError: If a number is too small.
    """

    priority = "VERY_LOW"

    def __init__(self, rounds: int = 20, warmup: int = 3) -> None:
        if rounds < 1 or warmup < 0:
            raise ValueError(f"expected rounds >= 1 and warmup >= 0, got {rounds} and {warmup}")
        self.rounds = rounds
        self.warmup = warmup

    def check(self, runner: Runner) -> None:
        """Find out before a test whether it can be benchmarked.

        Raises:
            ValueError: If there is less than one batch of images, or not exactly one
                backbone that reduces tokens.
        """
        loader = runner.test_dataloader
        batch_size, images = loader.batch_sampler.batch_size, len(loader.dataset)
        if images < batch_size:
            raise ValueError(
                f"the benchmark needs a whole batch: expected at least {batch_size} test images "
                f"(test_dataloader.batch_size), got {images}"
            )
        only_backbone(_unwrapped(runner))

    def before_test(self, runner: Runner) -> None:
        """Check that the model can be timed."""
        self.check(runner)

    @master_only
    def after_test(self, runner: Runner) -> None:
        """Time the model against its dense twin and write the result."""
        batch = first_batch(runner.test_dataloader)
        runner.logger.info(f"Timing encoder and model, {self.rounds} rounds each ...")
        fp16 = bool(getattr(runner.test_loop, "fp16", False))
        result = benchmark_model(
            _unwrapped(runner), batch, rounds=self.rounds, warmup=self.warmup, fp16=fp16
        )
        file = Path(runner.work_dir, "benchmark.json")
        file.write_text(json.dumps(result.as_dict(), indent=2) + "\n")
        runner.logger.info(f"{format_benchmark(result)}\nwritten to {file}")


def first_batch(loader: Any) -> Any:
    """First batch of a data loader, collated here: no workers that would disturb the timing."""
    return loader.collate_fn([loader.dataset[i] for i in range(loader.batch_sampler.batch_size)])


def _unwrapped(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
