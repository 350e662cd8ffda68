"""One process of test_fsdp: trains one config with DDP and FSDP, and reports on both.

Started by ``torch.distributed.run`` with a config and a folder to write to.
"""

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.sharded_strategy import check_root
from cropr_mm.hooks.finite_loss_hook import FiniteLossHook, NonFiniteError
from cropr_mm.optim.clip_groups import clip_sharded_norm_
from cropr_mm.reducers import Cropr

TRAIN = Path(__file__).parents[2] / "tools/train.py"
HALF = 10
LOGGED: list[dict[str, float]] = []
SHARDS: dict[str, Any] = {}


@HOOKS.register_module()
class FsdpWatch(Hook):
    """Notes losses, and how much of the model this process has."""

    def before_train(self, runner: Any) -> None:
        units = FullyShardedDataParallel.fsdp_modules(runner.model)
        SHARDS["units"] = len(units)
        SHARDS["values"] = sum(p.numel() for p in runner.model.parameters())

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any, outputs: dict[str, torch.Tensor]
    ) -> None:
        norms = runner.message_hub.log_scalars
        names = ("train/grad_norm", "train/grad_norm_auxiliary")
        logged = {name: norms[name].current() for name in names if name in norms}
        LOGGED.append({**logged, **{n: float(v) for n, v in outputs.items() if "loss" in n}})


def train(config: str, folder: Path, *options: str) -> dict[str, Any]:
    """Train as tools/train.py does, and return what every process noted."""
    LOGGED.clear()
    sys.argv = [str(TRAIN), config, "--work-dir", str(folder), "--launcher", "pytorch"]
    sys.argv += ["--device", "cpu", *options]
    runpy.run_path(str(TRAIN), run_name="__main__")
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, {"logged": [*LOGGED], **SHARDS})
    return {"ranks": every}


def resumed(config: str, source: Path, folder: Path) -> dict[str, Any]:
    """Go on with FSDP from the middle of a training in another folder."""
    if dist.get_rank() == 0:
        folder.mkdir()
        for name in (f"iter_{HALF}.pth", "random_states.pth"):
            shutil.copy(source / name, folder)
    dist.barrier()
    checkpoint = str(folder / f"iter_{HALF}.pth")
    return train(config, folder, "--strategy", "fsdp", "--resume", checkpoint)


def clipped_group() -> dict[str, Any]:
    """A group of which the first process has most and the second a part of one tensor."""
    whole = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(5))]
    gradients = torch.arange(1.0, 9.0).split([3, 5])
    for parameter, gradient in zip(whole, gradients, strict=True):
        parameter.grad = gradient.clone()
    first = dist.get_rank() == 0
    parts = [nn.Parameter(torch.zeros(3 if first else 0)), nn.Parameter(torch.zeros(2))]
    parts[1] = nn.Parameter(torch.zeros(2 if first else 3))
    parts[0].grad = gradients[0].clone() if first else None
    parts[1].grad = gradients[1][:2].clone() if first else gradients[1][2:].clone()
    report = {}
    for order in (2.0, 1.0, float("inf")):
        wanted = nn.utils.clip_grad_norm_(whole, 1.5, norm_type=order)
        got = clip_sharded_norm_(parts, dist.group.WORLD, 1.5, norm_type=order)
        mine = torch.cat([p.grad for p in parts if p.grad is not None])
        every = [torch.zeros(5), torch.zeros(3)]
        dist.all_gather_object(every, mine)
        apart = torch.cat(every) - torch.cat([p.grad for p in whole])
        report[str(order)] = (wanted.item(), got.item(), apart.abs().max().item())
    return report


def refused_units(config: str) -> str:
    """What is said of a policy that makes a unit of every reducer."""
    model = FullyShardedDataParallel(
        MODELS.build(Config.fromfile(config).model),
        auto_wrap_policy=ModuleWrapPolicy({Cropr}),
        device_id=torch.device("cpu"),
        use_orig_params=True,
    )
    try:
        check_root(model)
    except SetupError as error:
        return str(error)
    return ""


def stops_together() -> list[bool]:
    """Whether all processes stop where one has a weight that is not finite."""
    model = nn.Linear(2, 2)
    if dist.get_rank() == 1:
        nn.init.constant_(model.weight, float("nan"))
    hub = SimpleNamespace(runtime_info={})
    runner = SimpleNamespace(model=model, iter=0, message_hub=hub, optim_wrapper=None)
    try:
        FiniteLossHook().check(runner, weights=True)
        stopped = False
    except NonFiniteError:
        stopped = True
    every = [False] * dist.get_world_size()
    dist.all_gather_object(every, stopped)
    return every


def main() -> None:
    config, out = sys.argv[1], Path(sys.argv[2])
    report = {
        "ddp": train(config, out / "ddp"),
        "fsdp": train(config, out / "fsdp", "--strategy", "fsdp"),
        "from fsdp": resumed(config, out / "fsdp", out / "from_fsdp"),
        "from ddp": resumed(config, out / "ddp", out / "from_ddp"),
        "clipped": clipped_group(),
        "stopped": stops_together(),
        "refused": refused_units(config),
    }
    if dist.get_rank() == 0:
        (out / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
