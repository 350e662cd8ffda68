"""Test one checkpoint at several shares of its reduction: metrics and times in one table."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process

from cropr_mm.backbones.find import find_backbones
from cropr_mm.engine.build_runner import print_outputs
from cropr_mm.engine.errors import running_errors
from cropr_mm.engine.evaluate import as_plain, build_test_runner, prepare_test
from cropr_mm.engine.first_image import check_first_image
from cropr_mm.engine.force_share import force_share
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.runner import ToolRunner, unwrapped_model
from cropr_mm.hooks.shares import numbers_of, set_share
from cropr_mm.profiling.environment import machine_name
from cropr_mm.profiling.latency import Latencies, measure
from cropr_mm.text_table import format_table


def evaluate_shares(
    cfg: Config, checkpoint: str, shares: Sequence[float], rounds: int = 20
) -> list[dict[str, Any]]:
    """Test a checkpoint at each share, then time the model at all of them in turn.

    Times are of the whole model on the first batch of the test data, pre-processing and
    post-processing included.

    Args:
        cfg: Config from :func:`cropr_mm.engine.config.load_config`; changed in place.
        checkpoint: Checkpoint of exactly this model.
        shares: Shares of the full reduction, in [0, 1].
        rounds: Timed calls at each share.

    Returns:
        A row for each share: 'progress', 'pruned' (share of the patch tokens that are gone before
        the last block), metrics by name, and 'ms_per_image'. Also written, with all times, to
        ``test_progress.json`` in the working folder.

    Raises:
        SetupError: If config, data, checkpoint, shares or rounds do not fit.
    """
    if rounds < 1 or len(set(shares)) < len(shares):
        raise SetupError(
            f"expected --rounds of at least 1 and each share once, got {rounds} and "
            f"{' '.join(map(_name, shares))}"
        )
    prepare_test(cfg, checkpoint)
    runner = build_test_runner(cfg)
    hook = force_share(runner, shares)
    check_first_image(runner, "test")
    rows: list[dict[str, Any]] = []
    for share in shares:
        hook.share = share
        with running_errors():
            metrics = runner.test()
        rows.append(dict(progress=share, pruned=_pruned(runner), metrics=dict(metrics)))
    file = Path(runner.work_dir, "test_progress.json")
    _write(file, dict(rows=rows))  # if timing fails
    times = time_shares(runner, shares, rounds)
    for row in rows:
        row["ms_per_image"] = times.median(_name(row["progress"])) / times.items
    spent = times.as_dict(base=_name(shares[0]))
    _write(file, dict(rows=rows, times=spent, machine=machine_name(get_device())))
    if is_main_process():
        idle = "" if times.is_idle else f"\nNOT IDLE, load {times.load:.2f}: times do not count"
        print(f"{_table(rows, times)}{idle}")
        print_outputs(runner, "Tested", {"metrics and times": file})
    return rows


def _write(file: Path, record: Mapping[str, Any]) -> None:
    """Write numbers on the first process."""
    if is_main_process():
        file.write_text(json.dumps(record, indent=2, default=as_plain) + "\n")


def _pruned(runner: ToolRunner) -> float:
    """Share of the patch tokens of the native grid that are gone before the last block."""
    backbone = next(iter(find_backbones(unwrapped_model(runner)).values()))
    left = min(backbone.num_keep().values())
    return 1 - left / (backbone.grid[0] * backbone.grid[1])


def time_shares(runner: ToolRunner, shares: Sequence[float], rounds: int) -> Latencies:
    """Times of the model's test step on one batch, all shares in turn."""
    loader = runner.test_dataloader
    count = min(loader.batch_sampler.batch_size, len(loader.dataset))
    batch = loader.collate_fn([loader.dataset[i] for i in range(count)])
    model = runner.model.eval()
    step = partial(model.test_step, batch)
    before: Mapping[str, Callable[[], object]] = {
        _name(share): partial(set_share, runner, share) for share in shares
    }
    with torch.no_grad():
        return measure(
            dict.fromkeys(before, step),
            rounds=rounds,
            items=count,
            before=before,
            device=get_device(),
        )


def _name(share: float) -> str:
    return f"{share:g}"


def _table(rows: Sequence[Mapping[str, Any]], times: Latencies) -> str:
    numbers = numbers_of(rows[0]["metrics"])
    table = [["progress", "pruned", *numbers, "ms an image", "speed-up (95 %)"]]
    base = _name(rows[0]["progress"])
    for row in rows:
        name = _name(row["progress"])
        table.append(
            [
                name,
                f"{row['pruned']:.1%}",
                *(f"{row['metrics'][number]:.4g}" for number in numbers),
                f"{row['ms_per_image']:.1f}",
                times.speedup(name, base).text(len(times.times[name])),
            ]
        )
    return format_table(table)
