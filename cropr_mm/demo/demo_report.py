"""Whether the demo kept its thresholds, and its last page."""

from collections.abc import Mapping, Sequence
from typing import Any

from cropr_mm.demo.tasks import PRUNED, DemoTask
from cropr_mm.hooks.progress_hook import minutes
from cropr_mm.text_table import format_table


def check_thresholds(
    task: DemoTask, metrics: Mapping[str, Any], tokens_per_block: Sequence[int]
) -> tuple[dict[str, float], list[str]]:
    """Compare a test with the thresholds.

    Args:
        task: The task.
        metrics: What the evaluator returned. Without any prediction it returns nothing: that is 0.
        tokens_per_block: Tokens that enter each block.

    Returns:
        All metrics of the task and 'pruned', and the names of those that break a threshold, sorted.
    """
    pruned = 1 - min(tokens_per_block) / max(tokens_per_block)
    found = {**metrics, "pruned": pruned}
    result = {name: float(found.get(name, 0.0)) for name in (*task.metrics, "pruned")}
    return result, sorted(n for n, least in task.thresholds.items() if not result[n] >= least)


def format_report(task: DemoTask, record: Mapping[str, Any], files: Mapping[str, object]) -> str:
    """Everything a reader wants to know at the end, as aligned text.

    Args:
        task: The task.
        record: ``metrics`` and ``broken`` as :func:`check_thresholds` returns them; ``benchmark``,
            what ``CroprBenchmarkHook`` writes; ``stages_s``, seconds of each stage.
        files: Where things are.
    """
    benchmark, stages = record["benchmark"], record["stages_s"]
    quality = [["", "result", "threshold"]]
    for name, title in {**task.metrics, "pruned": PRUNED}.items():
        threshold = f"{task.thresholds[name]:.2f}" if name in task.thresholds else ""
        broken = " BROKEN" if name in record["broken"] else ""
        quality.append([title, f"{record['metrics'][name]:.3f}", threshold + broken])
    tokens = [["block", *(str(i + 1) for i in range(len(benchmark["tokens_per_block"])))]]
    tokens.append(["tokens, dense", *map(str, benchmark["tokens_per_block_dense"])])
    tokens.append(["tokens, pruned", *map(str, benchmark["tokens_per_block"])])
    speed = [["images per second", "dense", "pruned", "speed-up"]]
    for part in ("encoder", "model"):
        functions = benchmark[part]["functions"]
        dense, pruned = functions["dense"], functions["pruned"]
        rates = [f"{function['images_per_s']:.1f}" for function in (dense, pruned)]
        speed.append([part, *rates, f"{pruned['speedup']['value']:.2f}x"])
    idle = benchmark["idle"]
    busy = "" if idle else "\n(other processes were busy meanwhile: the speed does not count)"
    times = [["stage", "time"], *([name, minutes(took)] for name, took in stages.items())]
    times.append(["all", minutes(sum(stages.values()))])
    parts = [
        format_table(quality),
        format_table(tokens),
        format_table(speed) + busy,
        format_table(times),
        "\n".join(f"{name:16}  {place}" for name, place in files.items()),
    ]
    return "\n" + "\n\n".join(parts)
