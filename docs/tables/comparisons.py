"""Tables of trained models on small data: pruners against each other, and what they keep."""

from pathlib import Path

from experiments import compare_lora, compare_schedules
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.compare_orders import orders_table
from experiments.compare_padding import padding_table
from experiments.compare_seen import seen_table
from experiments.compare_sizes import sizes_table
from experiments.comparison_report import format_tables, interval_text
from tables.records import markdown, of_idle, record


def comparison(name: str) -> str:
    """Metrics and encoder speed of every variant of a stored comparison.

    Raises:
        ValueError: If the speeds were measured while the machine was busy with other work.
    """
    (summary,) = (stored := record(name)).values()
    functions = of_idle(summary["encoder_speed"])
    dated = "pruned_percent" not in summary["encoder_speed"]  # the first records have no rates
    if dated:
        summary["encoder_speed"]["pruned_percent"] = dict.fromkeys(functions, 0)
    rows = [line.split(" | ") for line in format_tables(stored).splitlines() if line[:1] == "|"]
    lines = [" | ".join(row[:1] + row[1 + dated :]) for row in rows]
    return "\n".join(lines).replace("Cropr - it", "Cropr - model")


def variants(name: str, *names: str) -> str:
    """Metrics of some variants of a comparison, without speeds."""
    (summary,) = record(name).values()
    metric = summary["metrics"][-1]
    rows = []
    for variant in names:
        scores = summary["variants"][variant][metric]
        middle = sorted(scores["per_seed"])[len(scores["per_seed"]) // 2]
        pruned = f"{summary['encoder_speed']['pruned_percent'][variant]:.0f} %"
        cells = (
            interval_text(scores["mean"]),
            f"{middle:.1f}",
            interval_text(scores.get("minus_dense"), signed=True),
        )
        rows.append([variant, pruned, *cells])
    return markdown(["model", "pruned", metric, "median", f"{metric} - dense"], rows)


def choices(name: str, *names: str) -> str:
    """Metric of variants, and their paired differences to dense and to random tokens."""
    (summary,) = record(name).values()
    metric = summary["metrics"][-1]
    rows = []
    for variant in names or summary["variants"]:
        scores = summary["variants"][variant][metric]
        pruned = f"{summary['encoder_speed']['pruned_percent'][variant]:.0f} %"
        differences = [
            interval_text(scores.get(key), signed=True) for key in ("minus_dense", "minus_random")
        ]
        rows.append([variant, pruned, interval_text(scores["mean"]), *differences])
    return markdown(["model", "pruned", metric, f"{metric} - dense", "model - random"], rows)


def losses(*entries: str) -> str:
    """What pruned models lose to dense ones, of several comparisons.

    Args:
        entries: 'what differs|comparison|variant' each.
    """
    rows, metric = [], ""
    for entry in entries:
        text, name, variant = entry.split("|")
        (summary,) = record(name).values()
        metric = summary["metrics"][-1]
        pruned, dense = (summary["variants"][n][metric] for n in (variant, "dense"))
        cells = f"{dense['mean']['value']:.1f}", f"{pruned['mean']['value']:.1f}"
        lost = interval_text(pruned["minus_dense"], signed=True)
        rows.append([text, str(len(summary["seeds"])), *cells, lost])
    head = ["what differs", "seeds", f"{metric}, dense", "pruned", "pruned - dense"]
    return markdown(head, rows)


def leads(*entries: str) -> str:
    """What Cropr has more than each other pruner, in several comparisons.

    Args:
        entries: 'head of the column|comparison|what follows the names of variants there' each.
    """
    columns = [entry.split("|") for entry in entries]
    texts: dict[str, list[str]] = {}
    for _, name, suffix in columns:
        (summary,) = record(name).values()
        for variant, scores in summary["variants"].items():
            lead = scores[summary["metrics"][-1]].get("cropr_minus_it")
            if variant != "dense" and lead is not None:
                texts.setdefault(variant.removesuffix(suffix), []).append(
                    interval_text(lead, signed=True)
                )
    head = ["Cropr minus", *(column[0] for column in columns)]
    return markdown(head, [[variant, *row] for variant, row in texts.items()])


def by_class(name: str, *names: str) -> str:
    """Main metric of each class, mean of the seeds."""
    (summary,) = record(name).values()
    rows = []
    for variant in names or summary["variants"]:
        seeds = summary["variants"][variant]["by_class_per_seed"]
        values = [sum(seed[c] for seed in seeds) / len(seeds) for c in seeds[0]]
        rows.append([variant, *(f"{value:.1f}" for value in values)])
    return markdown(["model", *seeds[0]], rows)


def orders(benchmark: str) -> str:
    """Layouts of survivors in windows, by features before fine-tuning."""
    table = orders_table(benchmark, record("compare_orders")[benchmark])
    return table[table.index("|") :]


def padding() -> str:
    """What dropping padding first does."""
    return padding_table(record("compare_padding"))


def seen() -> str:
    """Pixels of each class that trained segmenters still see."""
    (stored,) = record("seen_digits_seg").values()
    table = seen_table({"failed": {}, **stored})
    return table[table.index("|") :].replace("Cropr - it", "Cropr - model")


def sizes(benchmark: str) -> str:
    """Trained segmenters on smaller images."""
    return sizes_table(record(f"sizes_{benchmark}"))


def adapters(name: str) -> str:
    """Full training, LoRA and random weights of one pruned model."""
    head, *rows = compare_lora.cells(record(name))
    return markdown(head, rows)


def pretrained(*names: str) -> str:
    """Pruned models of several heads from a pretrained encoder and from random weights."""
    rows = []
    for name in names:
        found = record(name)
        config = Path(BENCHMARK_TASKS[found["benchmark"]].pruned).stem
        ways = {row["way"]: row for row in found["rows"]}
        full, scratch = ways[compare_lora.FULL], ways[compare_lora.SCRATCH]
        cells = [
            interval_text(full),
            interval_text(scratch),
            interval_text(full[f"minus {scratch['way']}"], signed=True),
        ]
        rows.append([f"`{config}`", str(found["iterations"]), found["metric"], *cells])
    head = ["config", "iterations", "metric", "pretrained", "random weights", "difference"]
    return markdown(head, rows)


def prices(name: str, way: str = "", other: str = "") -> str:
    """Metric of each way to a pruned model at each rate, less that of the dense model.

    Args:
        name: Name of the record behind 'prices_'.
        way: One way whose paired difference to another one gets a row too; '' adds none.
        other: The other one.
    """
    found = record(f"prices_{name}")
    dense, *rows = found["rows"]
    rates = sorted({row["rate"] for row in rows})
    table = [["dense", f"{dense['value']:.1f}"]]
    lines = [(one, one, "minus_dense") for one in dict.fromkeys(row["way"] for row in rows)]
    if way:
        lines.append((f"{way} - {other}", way, f"minus {other}"))
    for text, one, key in lines:
        cells = {r["rate"]: interval_text(r[key], signed=True) for r in rows if r["way"] == one}
        table.append([text, "", *(cells[rate] for rate in rates)])
    table[0] += [""] * len(rates)
    return markdown(["way", found["metric"], *(f"{rate} % pruned" for rate in rates)], table)


def schedules(name: str) -> str:
    """A found schedule and those made by hand, at the same time."""
    head, *rows = compare_schedules.cells(record(f"schedules_{name}"))
    return markdown(head, rows)


def similarity() -> str:
    """Tokens, depth maps and features of Cropr against those of other methods."""
    found = record("tokens_camvid_small")
    rows = []
    for name, other in found["others"].items():
        patches, features = other["patches"], other["features"]
        values = [patches[step]["intersection_over_union"]["mean"] for step in (3, 7)]
        values += other["depth_maps"].values()
        values += [features[i][metric] for i in (7, 8) for metric in ("procrustes", "cka")]
        rows.append([f"`{name}`", f"{found['proxies']['scores'][name]:.1f}", *map(_third, values)])
    head = ["compared with", "mIoU", "IoU, block 4", "IoU, block 8", "Spearman", "JSD, bits", "EMD"]
    head += ["histogram", "Procrustes, block 8", "CKA, block 8", "Procrustes, last", "CKA, last"]
    return markdown(head, rows)


def _third(value: float) -> str:
    return f"{value:.3f}"
