"""Tables of ``tools/benchmark.py`` and of the studies of encoder speed."""

import re

from tables.records import (
    Timed,
    benchmark,
    gmac,
    interval,
    markdown,
    of_floor,
    ratio,
    record,
    row_of,
    speedup,
    study,
)

PUBLISHED, RANDOM = "published step", "random pruning"
NAMES = {"cropr": "Cropr", "literal": PUBLISHED, "published": PUBLISHED, "random": RANDOM}
"""Rows of the records whose names say little."""
LARGE, BASE = "EVA-02-L, 512 px", "EVA-02-B, 1024 px"


def shown(name: str) -> str:
    """A row's name as the documents write it."""
    encoder, *form = re.sub(r"^cropr_\w+", "Cropr", name).split(", ")
    return ", ".join([NAMES.get(encoder, encoder), *form])


def encoders(name: str, batch: str, *bases: str) -> str:
    """Encoders side by side: time over the floors, speed over dense and over some other rows."""
    functions = benchmark(name, batch)
    head = ["encoder", "x floor", "x packed floor", "over dense"]
    head += [f"over {shown(base)}" for base in bases]
    rows = [
        [
            shown(row),
            of_floor(function),
            of_floor(function, "times_packed_floor"),
            speedup(function),
            *(speedup(function, base) for base in bases),
        ]
        for row, function in functions.items()
    ]
    return markdown(head, rows)


def headline() -> str:
    """Published speed and accuracy of the large models, and what was measured."""
    paper, here = "published, A100", "[here](docs/performance.md), one image,"
    rows = [
        ["EVA-02-L detector, COCO, 1536 px", "97 %", "2.4 encoder, 1.9 model", "1.2 box AP", paper],
        ["EVA-02-L segmenter, ADE20k, 512 px", "86 %", "2.0", "0.1 mIoU", paper],
        ["EVA-02-L classifier, ImageNet, 448 px", "86 %", "2.1", "0.2 top-1", paper],
    ]
    (trained,) = record("compare_camvid_dinov2s").values()
    fast = trained["encoder_speed"]["functions"]["cropr"]["speedup"]
    lost = _lost(trained["variants"]["cropr"]["mIoU"]["minus_dense"])
    place = f"[here](docs/results/segmentation.md), {len(trained['seeds'])} seeds, CPU"
    speed = f"{interval(**fast)} encoder"
    rows.append(["DINOv2-S segmenter, CamVid, 252 x 336 px", "86 %", speed, lost, place])
    untrained = next(
        row["minus_dense"]
        for row in record("prices_camvid_dinov2s")["rows"]
        if (row["way"], row["rate"]) == ("none, shortcut pruner", 50)
    )
    place = "[here](docs/budget.md#without-training), one seed"
    rows.append(["the same, pruned without training", "50 %", "-", _lost(untrained), place])
    windows = next(iter(study("detection_cpu").values()))["Cropr"]
    rows.append(
        ["EVA-02-L encoder, 1536 px", "97 %", speedup(windows), "-", f"{here} CPU without AMX"]
    )
    for title, name, share in ((LARGE, "eva02l_512", "86 %"), (BASE, "eva02b_1024", "94 %")):
        for file, machine in zip(RUNS[name], ("with AMX", "without AMX"), strict=True):
            timed = {shown(row): function for row, function in benchmark(file).items()}
            speed = interval(*ratio(timed, "Cropr, compiled", "dense, compiled"))
            title_of_row = title.replace(",", " encoder,")
            rows.append([title_of_row, share, speed, "-", f"{here} CPU {machine}, compiled"])
    head = ["model", "tokens pruned", "speed over dense", "accuracy lost", "measured"]
    return markdown(head, rows, left=5)


def _lost(minus_dense: dict[str, float]) -> str:
    value, low, high = (-minus_dense[key] for key in ("value", "high", "low"))
    return f"{value:.1f} mIoU ({low:.1f} to {high:.1f})"


PAIRS = (
    ("pruned over dense, both compiled", "eva02l_512", "Cropr, compiled", "dense, compiled"),
    ("pruned over dense, both compiled", "eva02b_1024", "Cropr, compiled", "dense, compiled"),
    ("pruned, compiled, over the published step", "eva02l_512", "Cropr, compiled", PUBLISHED),
    (
        "pruned over the published step, both compiled",
        "eva02l_512",
        "Cropr, compiled",
        f"{PUBLISHED}, compiled",
    ),
    ("dense over timm, both eager", "eva02l_512", "dense", "timm"),
    ("dense over timm, both compiled", "eva02l_512", "dense, compiled", "timm, compiled"),
    ("Cropr over random pruning, both eager", "random", "Cropr", RANDOM),
    (
        "Cropr over random pruning, both compiled",
        "random",
        "Cropr, compiled",
        f"{RANDOM}, compiled",
    ),
)
"""What the summary compares: a row of a run over another one of the same run."""
RUNS = {
    "eva02l_512": ("eva02l_512_cpu", "eva02l_512_zen4_cpu"),
    "eva02b_1024": ("eva02b_1024_cpu", "eva02b_1024_zen4_cpu"),
    "random": ("random_cpu", "eva02l_512_zen4_cpu"),
}
"""The run of each CPU, with AMX and without."""


def summary() -> str:
    """What the runs on both CPUs say, in one table."""
    rows = []
    for what, run, name, base in PAIRS:
        encoder, cells = BASE if run == "eva02b_1024" else LARGE, []
        for file in RUNS[run]:
            functions = {shown(row): function for row, function in benchmark(file).items()}
            cells.append(interval(*ratio(functions, name, base)))
        rows.append([encoder, what, *cells])
    return markdown(
        ["encoder", "speed, one image, bfloat16", "CPU with AMX", "CPU without AMX"], rows, left=2
    )


def whole_models() -> str:
    """Speed of whole models, heads and post-processing included."""
    rows = []
    titles = {
        "model_eva02l_512_zen4_cpu": "EVA-02-L and a linear head, 512 px",
        "model_eva02b_1024_zen4_cpu": "EVA-02-B Cascade Mask R-CNN, 1024 px",
    }
    for name, title in titles.items():
        dense, pruned = benchmark(name).values()
        numbers = speedup(pruned), of_floor(dense), of_floor(pruned)
        rows.append([title, record(name)["dtype"], *numbers])
    head = ["model", "precision", "speed over dense", "dense, x floor", "pruned, x floor"]
    return markdown(head, rows, left=2)


def rates() -> str:
    """ViT-L over the number of tokens dropped after each block."""
    one, eight = study("rates_cpu").values()
    rows = []
    for name in one:
        cells = []
        for functions in (one, eight):
            function = functions[name]
            cells += [speedup(function), f"{function['times_floor']:.2f}"]
        rows.append([name.removeprefix("R="), f"{100 * removed(one[name]):.0f} %", *cells])
    head = ["tokens a block", "pruned", "1 image", "x floor", "8 images", "x floor"]
    return markdown(head, rows)


def removed(function: Timed) -> float:
    """Share of the patch tokens that the last block before fusion does not see."""
    whole, last = (function["tokens_per_block"][i] - 1 for i in (0, -2))  # a class token
    return 1 - last / whole


def scale() -> str:
    """Model sizes, image sizes and detectors' encoders, beside the published speed-ups."""
    published = ("1.5", "1.7", "1.9", "-", "2.1", "2.4", "-")
    titles = ["ViT-B/16, 224 px", "ViT-L/16, 224 px", "ViT-H/14, 224 px", "ViT-L/16, 336 px"]
    titles += ["ViT-L/16, 448 px", "EVA-02-L, 1536 px", "EVA-02-B, 1024 px"]
    steps = ("R=16", "R=8", "R=8", "R=18", "R=32", "windows", "windows")
    shares = ("82 %", "90 %", "94 %", "90 %", "90 %", "97 %", "94 %")
    groups = [*study("scale_cpu").values(), *study("detection_cpu").values()]
    rows = []
    for *about, paper, functions in zip(titles, steps, shares, published, groups, strict=True):
        dense, pruned = functions.values()
        counts = f"{gmac(dense):.0f} to {gmac(pruned):.0f}"
        rows.append([*about, counts, speedup(pruned), paper, of_floor(dense), of_floor(pruned)])
    head = ["encoder", "steps", "pruned", "GMAC", "speed over dense", "published, A100"]
    return markdown([*head, "dense, x floor", "pruned, x floor"], rows, left=2)


def image_sizes() -> str:
    """ViT-L over the image size."""
    rows = []
    for group, functions in study("curve_cpu").items():
        for name, function in functions.items():
            memory = training_bytes(function) / training_bytes(functions["dense"])
            numbers = f"{gmac(function):.0f}", speedup(function), of_floor(function)
            rows.append([group.split(", ")[1], name, *numbers, f"{memory:.2f}"])
    head = ["image", "encoder", "GMAC", "speed over dense", "x floor", "training memory over dense"]
    return markdown(head, rows, left=2)


def training_bytes(function: Timed) -> int:
    """Weights and the peak of one training step without an optimizer."""
    need = function["memory_estimated"]
    return need["weights"] + need["training"]


def precision() -> str:
    """ViT-L in each precision and with each kernel of attention."""
    (functions,) = study("precision_cpu").values()
    rows = []
    for name, function in functions.items():
        encoder, _, kind = name.partition(", ")
        (own,) = function["speedup_over"].values()
        rows.append(
            [*kind.split(), encoder, speedup(function), interval(**own), of_floor(function)]
        )
    head = ["precision", "attention", "encoder", "over dense in float32, flash"]
    return markdown([*head, "over dense in its own precision", "x floor"], rows, left=3)


def sequence_length() -> str:
    """One token less than a multiple of 8."""
    rows = []
    for functions, title in zip(study("length_cpu").values(), ("dense", "R=40"), strict=True):
        floors = [of_floor(function) for function in functions.values()]
        rows.append([title, speedup(functions["1023 tokens"]), *floors])
    head = ["encoder", "1023 tokens over 1024", "1024 tokens, x floor", "1023 tokens, x floor"]
    return markdown(head, rows)


def operators() -> str:
    """Where the time of the compiled forms goes."""
    rows = []
    chosen = (
        (LARGE, "eva02l_512_cpu", "dense cropr random"),
        (BASE, "eva02b_1024_cpu", "dense cropr"),
    )
    for title, file, names in chosen:
        for encoder in names.split():
            function = row_of(benchmark(file), encoder)
            shares = row_of(record(file)["batches"]["1"]["operators"], encoder)
            linear = shares["mkldnn::_linear_pointwise"]
            attention = sum(share for name, share in shares.items() if "attention" in name)
            alone = [
                share * function["median_ms"] / function["packed_floor"][f"{kind}_ms"]
                for kind, share in (("linear", linear), ("attention", attention))
            ]
            percent = [f"{100 * x:.0f} %" for x in (linear, attention, 1 - linear - attention)]
            rows.append([f"{title}, {shown(encoder)}", *percent, *(f"{x:.2f}" for x in alone)])
    head = ["encoder", "linear", "attention", "everything else", "linear, x alone"]
    return markdown([*head, "attention, x alone"], rows)


ALTERNATIVES = (
    ("patch embedding", "matrix product", "convolution"),
    ("patch embedding", "matrix product", "convolution, channels last"),
    ("rotation of queries and keys", "two products and a swap", "four products on halves"),
    ("rotation of queries and keys", "two products and a swap", "partners by index"),
    (
        "the same, compiled",
        "two products and a swap, compiled",
        "four products on halves, compiled",
    ),
    ("attention", "fused", "products and softmax"),
    ("linear layers of a block", "1024 tokens, packed", "1024 tokens, stored"),
    ("linear layers of a block", "624 tokens, packed", "624 tokens, stored"),
    ("linear layers of a block", "224 tokens, packed", "224 tokens, stored"),
    ("choice of 984 of 1024 tokens", "choice by two thresholds", "choice by sorting"),
    ("score of 1024 tokens in float32", "score by a product", "score by a sum"),
    (
        "restoring the tokens of 22 steps",
        "joined, then put in order",
        "each step's to their places",
    ),
)


def alternatives() -> str:
    """Other ways to compute parts of an encoder."""
    times = {
        name: function["median_ms"]
        for functions in study("alternatives_cpu").values()
        for name, function in functions.items()
    }
    rows = []
    for part, used, instead in ALTERNATIVES:
        times_used = times[instead] / times[used]
        digits = 1 if times_used > 1 else 2
        rows.append([part, used, instead, f"{times_used:.{digits}f} x"])
    return markdown(["part", "used", "instead", "time of the latter"], rows, left=3)
