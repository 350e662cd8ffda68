"""Measure the speed of a model against its own dense twin, in one run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.runner import autocast
from torch import Tensor, nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.find import auxiliary_reducers, only_backbone
from cropr_mm.profiling.benchmark_record import Benchmark
from cropr_mm.profiling.encoder_cost import EncoderCost, encoder_cost
from cropr_mm.profiling.environment import git_commit, machine_name, peak_memory, versions
from cropr_mm.profiling.floor import measure_with_floors
from cropr_mm.profiling.latency import measure
from cropr_mm.profiling.matmuls import record_matmuls
from cropr_mm.profiling.meta import meta_twin
from cropr_mm.profiling.model_cost import model_cost
from cropr_mm.profiling.model_parts import measure_parts


def benchmark_model(
    model: nn.Module, batch: Any, *, rounds: int = 20, warmup: int = 3, fp16: bool = False
) -> Benchmark:
    """Time encoder and model of a host library on one batch, as its test loop runs them.

    The dense twin shares all parameters and prunes nothing; both take turns. The encoder gets
    preprocessed images; the model starts from the collated batch and ends with its predictions.
    Auxiliary parts never run, so they are never timed: this is checked, as is that the deployed
    form counts the same.

    Args:
        model: Model with one backbone that reduces tokens on one grid, such as
            :class:`cropr_mm.CroprViT`; left in evaluation mode.
        batch: What the data loader returns.
        rounds: Timed calls of each.
        warmup: Calls of each before that.
        fp16: Whether to run under mmengine's autocast.

    Raises:
        ValueError: If the model has not exactly one such backbone, or its preprocessor does not
            return one tensor of images.
    """
    model.eval()
    with torch.no_grad():
        images = model.data_preprocessor(batch, False)["inputs"]
        if not isinstance(images, Tensor):
            raise ValueError(
                "expected the data preprocessor to return one tensor of images, got "
                f"{type(images).__name__}"
            )
        path, backbone = only_backbone(model)
        # A model that prunes nothing is its own twin: there is nothing to compare.
        encoders = {"dense": backbone.unpruned()}
        if backbone.reducers:
            encoders["pruned"] = backbone
        with _no_auxiliary(backbone), _swapping(model, path, backbone) as swap:
            return _measure(model, path, encoders, batch, images, rounds, warmup, fp16, swap)


def _measure(
    model: nn.Module,
    path: str,
    encoders: Mapping[str, ReducingBackbone],
    batch: Any,
    images: Tensor,
    rounds: int,
    warmup: int,
    fp16: bool,
    swap: Callable[[nn.Module], None],
) -> Benchmark:
    timing = dict(rounds=rounds, warmup=warmup, device=images.device)
    size = (images.shape[-2], images.shape[-1])

    def run_encoder(encoder: nn.Module) -> None:
        with _precision(fp16):
            encoder(images)

    def run_step() -> None:
        with _precision(fp16):
            model.test_step(batch)

    def run_model(encoder: nn.Module) -> None:
        swap(encoder)
        run_step()

    calls: dict[str, Callable[[nn.Module], None]] = {"encoder": run_encoder, "model": run_model}
    bound = {
        part: {name: partial(call, encoder) for name, encoder in encoders.items()}
        for part, call in calls.items()
    }
    matmuls = {name: record_matmuls(run) for name, run in bound["encoder"].items()}
    times, floors = measure_with_floors(bound["encoder"], matmuls, items=len(images), **timing)
    latencies = {"encoder": times, "model": measure(bound["model"], items=len(images), **timing)}
    variants = {name: partial(swap, encoder) for name, encoder in encoders.items()}
    parts = measure_parts(model, path, run_step, variants, items=len(images), **timing)
    return Benchmark(
        about=_about(next(iter(encoders.values())), images, fp16, rounds, warmup),
        tokens={n: e.tokens_per_block(e.patch_grid(size)) for n, e in encoders.items()},
        latencies=latencies,
        parts=parts,
        floors=floors,
        costs={name: _encoder_cost(encoder, size) for name, encoder in encoders.items()},
        model_macs={n: _model_macs(model, path, e, size, swap) for n, e in encoders.items()},
        memory={
            part: {name: peak_memory(run, images.device) for name, run in runs.items()}
            for part, runs in bound.items()
        },
    )


@contextmanager
def _swapping(
    model: nn.Module, path: str, backbone: ReducingBackbone
) -> Iterator[Callable[[nn.Module], None]]:
    """Function that puts another encoder into the model; the right one is back at the end."""
    owner = model.get_submodule(path.rpartition(".")[0])
    name = path.rpartition(".")[2]
    try:
        yield partial(setattr, owner, name)
    finally:
        setattr(owner, name, backbone)


@contextmanager
def _no_auxiliary(backbone: ReducingBackbone) -> Iterator[None]:
    """Raise where an auxiliary part runs: what is timed must be what is deployed."""

    def refuse(*_: object) -> None:
        raise AssertionError("an auxiliary part ran in evaluation mode")

    reducers = auxiliary_reducers(backbone).values()
    handles = [reducer.auxiliary.register_forward_pre_hook(refuse) for reducer in reducers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _encoder_cost(encoder: ReducingBackbone, size: tuple[int, int]) -> EncoderCost:
    twin = meta_twin(encoder)
    cost = encoder_cost(twin, size)
    twin.switch_to_deploy()
    assert encoder_cost(twin, size).macs == cost.macs, "the deployed form costs something else"
    return cost


def _model_macs(
    model: nn.Module,
    path: str,
    encoder: ReducingBackbone,
    size: tuple[int, int],
    swap: Callable[[nn.Module], None],
) -> dict[str, Any]:
    """MACs of the whole model, with the parts that could not be counted."""
    if path != "backbone":
        return {}
    swap(encoder)
    cost = model_cost(meta_twin(model), size)
    return {**cost.macs.as_dict(), "not_counted": cost.not_counted}


def _precision(fp16: bool) -> AbstractContextManager:
    return autocast(enabled=fp16)


def _about(
    backbone: ReducingBackbone, images: Tensor, fp16: bool, rounds: int, warmup: int
) -> dict[str, Any]:
    """What the times belong to."""
    dtype = str(next(backbone.parameters()).dtype).removeprefix("torch.")
    return {
        "machine": machine_name(images.device),
        "commit": git_commit(),
        "versions": versions(),
        "dtype": f"{dtype}, autocast" if fp16 else dtype,
        "batch_size": len(images),
        "img_size": list(images.shape[-2:]),
        "rounds": rounds,
        "warmup": warmup,
    }
