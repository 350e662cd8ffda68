"""What the CPU's allocator gave out, for tests of estimates of memory."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def allocated_peak(function: Callable[[], object]) -> int:
    """Most that the CPU's allocator gave out above what it had before, as the profiler saw it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        function()
    events = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    # Microseconds before torch 2.2.
    events.sort(key=lambda e: e.start_ns() if hasattr(e, "start_ns") else e.start_us())
    total = peak = 0
    for event in events:
        total += event.nbytes()
        peak = max(peak, total)
    return peak
