"""How many threads torch gets."""

import os
from functools import partial

import torch

from cropr_mm.analysis.latency import measure


def use_cores(num_workers: int) -> int:
    """Let torch use the cores that data workers leave, or one if they prove to be busy.

    Threads that wait for a core which another program uses are several times slower than one
    thread. OMP_NUM_THREADS has the last word.

    Args:
        num_workers: Processes that load data.

    Returns:
        The number of threads, which is set.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (cores or 1) - num_workers))
    if threads > 1 and not os.environ.get("OMP_NUM_THREADS"):
        tokens, weights = torch.randn(2048, 128), torch.randn(128, 512)

        def work(number: int) -> None:
            torch.set_num_threads(number)
            for _ in range(20):
                torch.nn.functional.gelu(tokens @ weights)

        trials = {str(number): partial(work, number) for number in (1, threads)}
        times = measure(trials, rounds=15)
        threads = min((1, threads), key=lambda number: sum(times.times[str(number)]))
    torch.set_num_threads(threads)
    return threads
