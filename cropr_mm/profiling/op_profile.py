"""Which operators the time of a call goes to."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def operator_shares(
    call: Callable[[], object], device: str | torch.device = "cpu", rounds: int = 3
) -> dict[str, float]:
    """Share of each operator's own time, what it calls excluded, largest first.

    Kernels that ``torch.compile`` has made have no operator on a CPU: they are what the compiled
    graph itself takes ("## Call CompiledFxGraph None ##" in torch 2.11). Times of a profiler are
    longer than those without.

    Args:
        call: What is looked at, without arguments.
        device: Device that it computes on. On CUDA the time of kernels counts.
        rounds: Calls that are looked at, after one that is not.

    Returns:
        Shares in [0, 1] by name; their sum is one.

    Raises:
        ValueError: If no operator ran.
    """
    cuda = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    call()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*clears events at the end of each cycle.*")
        with profile(activities=activities) as record:
            for _ in range(rounds):
                call()
            if cuda:
                torch.cuda.synchronize(device)
    times: dict[str, float] = {}
    for event in record.key_averages():
        own = _device_time(event) if cuda else event.self_cpu_time_total
        times[event.key] = times.get(event.key, 0.0) + own
    total = sum(times.values())
    if not total:
        raise ValueError("expected a call that runs operators, got none")
    return {name: own / total for name, own in sorted(times.items(), key=lambda item: -item[1])}


def _device_time(event: Any) -> float:
    """Time of its own kernels; the attribute was named after CUDA before torch 2.3."""
    name = "self_device_time_total"
    return getattr(event, name if hasattr(event, name) else "self_cuda_time_total")
