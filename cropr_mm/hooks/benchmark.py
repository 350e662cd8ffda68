"""Speed of the model under test against its own dense twin, in the same run."""

import json
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, autocast
from torch import Tensor, nn

from cropr_mm.analysis.latency import MAX_LOAD, Latencies, format_table, measure
from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.backbones.lookup import find_backbones
from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class CroprBenchmarkHook(Hook):
    """After a test: throughput of encoder and whole model, pruned against dense.

    The dense twin shares all parameters and prunes nothing. Both run in turn on the first batch of
    the test data, as the test loop ran them (evaluation mode, its precision). The encoder gets
    preprocessed images; the whole model starts from the collated batch and ends with its
    predictions. The table goes to the log, everything else to ``benchmark.json`` in the working
    folder.

    Args:
        rounds: Timed calls of each.
        warmup: Calls of each before that.

    Raises:
        ValueError: After the test, if the model has not exactly one CroprViT.
    """

    priority = "VERY_LOW"

    def __init__(self, rounds: int = 20, warmup: int = 3) -> None:
        if rounds < 1 or warmup < 0:
            raise ValueError(f"expected rounds >= 1 and warmup >= 0, got {rounds} and {warmup}")
        self.rounds = rounds
        self.warmup = warmup

    @master_only
    @torch.no_grad()
    def after_test(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.eval()
        batch = _first_batch(runner.test_dataloader)
        images = model.data_preprocessor(batch, False)["inputs"]
        if not isinstance(images, Tensor):
            raise ValueError(
                "expected the data preprocessor to return one tensor of images, got "
                f"{type(images).__name__}"
            )
        path, backbone = _only_backbone(model)
        runner.logger.info(f"Timing encoder and model, {self.rounds} rounds each ...")
        fp16 = bool(getattr(runner.test_loop, "fp16", False))
        results = self._measure(model, path, backbone, batch, images, fp16)
        record = {
            **_describe(backbone, images, fp16),
            **{name: latencies.as_dict(base="dense") for name, latencies in results.items()},
        }
        file = Path(runner.work_dir, "benchmark.json")
        file.write_text(json.dumps(record, indent=2) + "\n")
        runner.logger.info(f"{_table(record, results)}\nwritten to {file}")

    def _measure(
        self,
        model: nn.Module,
        path: str,
        backbone: CroprViT,
        batch: Any,
        images: Tensor,
        fp16: bool,
    ) -> dict[str, Latencies]:
        """Latencies of encoder and whole model, each dense and pruned."""
        # A model that prunes nothing is its own twin: there is nothing to compare.
        encoders = {"dense": backbone.unpruned()}
        if backbone.reducers:
            encoders["pruned"] = backbone
        owner = model.get_submodule(path.rpartition(".")[0])
        name = path.rpartition(".")[2]

        def run_encoder(encoder: nn.Module) -> None:
            with _precision(fp16):
                encoder(images)

        def run_model(encoder: nn.Module) -> None:
            setattr(owner, name, encoder)
            with _precision(fp16):
                model.test_step(batch)

        results = {}
        calls: dict[str, Callable[[nn.Module], None]] = {"encoder": run_encoder, "model": run_model}
        try:
            for part, call in calls.items():
                results[part] = measure(
                    {label: partial(call, encoder) for label, encoder in encoders.items()},
                    rounds=self.rounds,
                    warmup=self.warmup,
                    items=len(images),
                    device=images.device,
                )
        finally:
            setattr(owner, name, backbone)
        return results


def _first_batch(loader: Any) -> Any:
    """First batch of a data loader, collated here: no workers that would disturb the timing."""
    size = min(loader.batch_sampler.batch_size, len(loader.dataset))
    return loader.collate_fn([loader.dataset[i] for i in range(size)])


def _only_backbone(model: nn.Module) -> tuple[str, CroprViT]:
    found = find_backbones(model)
    if len(found) != 1 or "" in found:
        raise ValueError(
            f"expected a model with one CroprViT inside, got {len(found)} {list(found)}"
        )
    return next(iter(found.items()))


def _precision(fp16: bool) -> AbstractContextManager:
    return autocast(enabled=fp16)


def _describe(backbone: CroprViT, images: Tensor, fp16: bool) -> dict[str, Any]:
    """What the times belong to."""
    height, width = images.shape[-2:]
    grid = backbone.patch_grid((height, width))
    cuda = images.device.type == "cuda"
    dtype = str(next(backbone.parameters()).dtype).removeprefix("torch.")
    return {
        "machine": torch.cuda.get_device_name(images.device) if cuda else _processor(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mmengine": mmengine.__version__,
            "cuda": torch.version.cuda,
        },
        "dtype": f"{dtype}, autocast" if fp16 else dtype,
        "batch_size": len(images),
        "img_size": [height, width],
        "tokens_per_block": backbone.tokens_per_block(grid),
        "tokens_per_block_dense": backbone.unpruned().tokens_per_block(grid),
    }


def _processor() -> str:
    """Name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _table(record: dict[str, Any], results: dict[str, Latencies]) -> str:
    """Tables for people; blocks count from 1."""
    any_result = next(iter(results.values()))
    height, width = record["img_size"]
    tokens = [[str(i), str(count)] for i, count in enumerate(record["tokens_per_block"], start=1)]
    lines = [
        "Throughput, pruned against its dense twin with the same weights",
        f"{record['machine']}, CPU threads {any_result.threads}, {record['dtype']}, "
        f"batch size {record['batch_size']}, images of {height}x{width} pixels",
        format_table(
            [list(column) for column in zip(["block (from 1)", "tokens"], *tokens, strict=True)]
        ),
    ]
    for part, latencies in results.items():
        rows = latencies.table(base="dense").splitlines()
        lines += [f"{part}:", *(f"  {row}" for row in rows)]
    if not all(latencies.is_idle for latencies in results.values()):
        load = max(latencies.load for latencies in results.values())
        lines.append(
            f"NOT IDLE: other processes kept {load:.2f} cores busy (more than {MAX_LOAD}); "
            "these times do not count"
        )
    return "\n".join(lines)
