"""One process of test_ddp: trains the tiny detector and reports on its gradients.

Started by ``torch.distributed.run`` with a folder to write ``<case>.json`` files to.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_fcos import HOOK, loader, make_runner, model
from torch import Tensor

CASES: dict[str, dict[str, Any]] = {
    "plain": dict(with_cp=False, counts=1),
    "checkpointing and accumulation": dict(with_cp=True, counts=2),
    "one process keeps all tokens": dict(with_cp=False, counts=1, keep_all=True),
}
ITERATIONS = 4


def flat(gradients: dict[str, Tensor]) -> Tensor:
    """All gradients as one vector: one exchange between the processes instead of a hundred."""
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def reduced(vector: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
    """The vector reduced over the processes; the argument stays as it is."""
    vector = vector.clone()
    dist.all_reduce(vector, op=op)
    return vector


class Watch(Hook):
    """Compares the gradients of each step with those of other processes and of plain copies."""

    def __init__(self, counts: int) -> None:
        self.counts = counts
        self.logged: list[dict[str, float]] = []
        self.between_processes: list[float] = []
        self.to_plain_copies: list[float] = []
        self.smallest_auxiliary: list[float] = []
        self.expected: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        self.detector = runner.model.module
        runner.optim_wrapper.optimizer.register_step_pre_hook(self.before_step)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        # The copy is no DDP module: it has its own auxiliary losses and this process' gradients.
        twin = copy.deepcopy(self.detector)
        twin.zero_grad()
        data = twin.data_preprocessor(copy.deepcopy(data_batch), True)
        losses = twin._run_forward(data, mode="loss")
        (twin.parse_losses(losses)[0] / self.counts).backward()
        for name, parameter in twin.named_parameters():
            self.expected[name] = self.expected.get(name, 0.0) + parameter.grad

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        gradients = {n: p.grad for n, p in self.detector.named_parameters()}
        own = flat(gradients)
        spread = reduced(own, dist.ReduceOp.MAX) - reduced(own, dist.ReduceOp.MIN)
        self.between_processes.append(spread.max().item())
        expected = reduced(flat(self.expected)) / dist.get_world_size()
        self.to_plain_copies.append((own - expected).abs().max().item())
        self.smallest_auxiliary.append(
            min(g.abs().max().item() for n, g in gradients.items() if ".reducers." in n)
        )
        self.expected = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: Any
    ) -> None:
        self.logged.append({name: value.item() for name, value in outputs.items()})


def train(case: str, out: Path, with_cp: bool, counts: int, keep_all: bool = False) -> None:
    """Train for a few iterations; the first process writes the report."""
    watch = Watch(counts)
    runner = make_runner(
        out / case.replace(" ", "_"),
        model=model(with_cp=with_cp),
        launcher="pytorch",
        # Processes on a CPU own no device.
        cfg=dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None)),
        train_dataloader=loader(16, 2),
        train_cfg=dict(by_epoch=False, max_iters=ITERATIONS, val_interval=1000),
        optim_wrapper=dict(
            type="cropr_mm.CroprOptimWrapper",
            optimizer=dict(type="SGD", lr=0.01),
            accumulative_counts=counts,
        ),
        custom_hooks=[HOOK, watch],
        val_dataloader=None,
        val_cfg=None,
        val_evaluator=None,
    )
    if keep_all and dist.get_rank() == 1:
        runner.model.module.backbone.progress = 0.0
    runner.train()
    logged: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(logged, watch.logged)
    if dist.get_rank() == 0:
        report = dict(
            logged=logged,
            between_processes=watch.between_processes,
            to_plain_copies=watch.to_plain_copies,
            smallest_auxiliary=watch.smallest_auxiliary,
        )
        (out / f"{case}.json").write_text(json.dumps(report))


def main() -> None:
    dist.init_process_group("gloo")
    for case, settings in CASES.items():
        torch.manual_seed(0)
        train(case, Path(sys.argv[1]), **settings)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
