"""Encoders of all variants timed against each other."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from cropr_mm.profiling import measure
from cropr_mm.profiling.compare import encoder_entry
from cropr_mm.profiling.environment import machine_name, versions
from cropr_mm.profiling.run_mode import Mode
from experiments.runs import Run


@torch.no_grad()
def encoder_speed(
    runs: Mapping[str, Run], batch_size: int = 8, rounds: int = 30, compile: bool = False
) -> dict[str, Any]:
    """Interleaved times of the encoders, stripped for inference, on random images.

    Args:
        runs: One run per variant; of them only the config is used.
        batch_size: Images per call.
        rounds: Timed calls of each.
        compile: Whether compiled forms take turns with the eager ones.

    Returns:
        As :meth:`cropr_mm.profiling.Latencies.as_dict`, against 'dense', with machine, versions,
        dtype and 'pruned_percent' of each: patches that are gone before the last block. Where
        compiled, functions are also named 'NAME, compiled', and 'compiled' has their speed-ups over
        'dense, compiled'.
    """
    calls, pruned = {}, {}
    for name, run in runs.items():
        cfg = Config.fromfile(run.config)
        init_default_scope(cfg.default_scope)
        encoder = MODELS.build(cfg.model.backbone).eval()
        encoder.switch_to_deploy()
        patches = encoder.grid[0] * encoder.grid[1]
        pruned[name] = 100 * (1 - min(encoder.num_keep().values(), default=patches) / patches)
        images = torch.randn(batch_size, 3, *encoder.img_size)
        calls[name] = partial(encoder, images)
        if compile:
            entry = encoder_entry(encoder, encoder, Mode(), compile=True)
            calls[f"{name}, compiled"] = partial(entry.call, images)
    # After a wait for its turn a model finds its weights far away: each is called once before.
    latencies = measure(calls, rounds=rounds, warmup=3, items=batch_size, before=calls)
    compiled = {
        name: latencies.speedup(f"{name}, compiled", "dense, compiled")._asdict()
        for name in (runs if compile else ())
    }
    return {
        "machine": machine_name("cpu"),
        "versions": versions(),
        "dtype": "float32",
        "pruned_percent": pruned,
        **latencies.as_dict(base="dense"),
        "compiled": compiled,
    }
