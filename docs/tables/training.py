"""Tables of training steps and of memory."""

from collections.abc import Sequence

from experiments import recipe_memory
from tables.records import GIB, interval, markdown, of_idle, record

EXACT, CELLS = "cropr, exact", "256 cells"
VARIANTS = {EXACT: "all cells", CELLS: CELLS}
TITLES = {
    "eva02l_512": "segmentation: EVA-02-L, 512 px",
    "vitl_224": "classification: ViT-L, 224 px",
    "eva02l_1536": "detection: EVA-02-L, 1536 px, checkpointed",
    "eva02b_1024": "detection: EVA-02-B, 1024 px",
}
STEPS = (
    ("eva02l_512", "", EXACT),
    ("eva02l_512", "", CELLS),
    ("eva02l_512", "_b6", EXACT),
    ("eva02l_512", "_b6", CELLS),
    ("vitl_224", "", EXACT),
    ("vitl_224", "_b64", EXACT),
    ("eva02b_1024", "", EXACT),
)


def steps() -> str:
    """Speed and memory of pruned training steps over dense ones."""
    rows = []
    for model, suffix, variant in STEPS:
        stored = record(f"train_{model}{suffix}_cpu")
        counts, dense = stored["counted"][variant], stored["counted"]["dense"]
        timed = of_idle(stored["measured"])[variant]
        allowed = dense["macs"] / counts["macs"]
        weighted = [sum(c[kind] for kind in ("weights", "step")) for c in (counts, dense)]
        rows.append(
            [
                TITLES[model],
                VARIANTS[variant] if model == "eva02l_512" else "one query",
                "without AMX" if suffix else "AMX",
                str(stored["batch_size"]),
                f"{allowed:.2f}",
                interval(**timed["speedup"], rounds=len(timed["times_ms"])),
                f"{timed['speedup']['value'] / allowed:.2f}",
                f"{counts['step'] / dense['step']:.2f}",
                f"{weighted[0] / weighted[1]:.2f}",
            ]
        )
    head = ["step", "auxiliary loss", "CPU", "images", "multiply-adds allow", "speed over dense"]
    head += ["share of allowed", "memory over dense", "with weights"]
    return markdown(head, rows, left=3)


def memory_of_steps() -> str:
    """Estimated memory of a training step over the batch."""
    batches = {"eva02l_512": (1, 2, 4, 6, 8, 16), "vitl_224": (8, 16, 32, 64, 128)}
    batches |= {"eva02l_1536": (1, 2, 4, 8), "eva02b_1024": (1, 8)}
    own = {"eva02l_512": 8, "vitl_224": 128, "eva02l_1536": 8}
    rows = []
    for name, batch in ((name, b) for name, some in batches.items() for b in some):
        stored = record(f"memory_step_{name}")["rows"]
        dense, pruned = (row for row in stored if row["batch"] == batch)
        with_states, without = (
            [sum(row[kind] for kind in kinds) for row in (dense, pruned)]
            for kinds in (("weights", "step", "optimizer"), ("weights", "step"))
        )
        rows.append(
            [
                TITLES[name],
                f"{batch} (the config's)" if own.get(name) == batch else str(batch),
                *(f"{total / GIB:.2f}" for total in with_states),
                f"{with_states[1] / with_states[0]:.2f}",
                f"{without[1] / without[0]:.2f}",
            ]
        )
    head = ["step", "images", "dense GiB", "pruned GiB", "over dense", "the same without states"]
    return markdown(head, rows)


def memory_of_sizes() -> str:
    """Estimated memory of ViT-L over image and batch size."""
    stored = record("memory_size")["rows"]
    places = list(dict.fromkeys((row["side"], row["encoder"]) for row in stored))
    rows = []
    for side, encoder in places:
        own, dense = (
            [row for row in stored if (row["side"], row["encoder"]) == (side, name)]
            for name in (encoder, "dense")
        )
        training = [row["weights"] + row["training"] for row in own]
        test = [row["weights_deployed"] + row["test"] for row in own]
        of_dense = [row["weights"] + row["training"] for row in dense]
        expected = [row["weights"] + row["analytic_training"] for row in own]
        expected_test = [row["weights_deployed"] + row["analytic_test"] for row in own]
        rows.append(
            [
                f"{side} px",
                encoder,
                ", ".join(f"{x / GIB:.1f}" for x in training),
                ", ".join(f"{x / y:.2f}" for x, y in zip(training, of_dense, strict=True)),
                lowest_to_highest(training, expected),
                ", ".join(f"{x / GIB:.2f}" for x in test),
                lowest_to_highest(test, expected_test),
            ]
        )
    head = ["image", "encoder", "training GiB, batch 1/2/4/8", "over dense", "over the model"]
    return markdown([*head, "test GiB, batch 1/2/4/8", "over the model"], rows, left=2)


def lowest_to_highest(found: Sequence[int], expected: Sequence[int]) -> str:
    """Range of ratios."""
    ratios = [f / e for f, e in zip(found, expected, strict=True)]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def memory_of_detector(name: str) -> str:
    """Estimated memory of a whole detector in training and test."""
    stored = record(name)["rows"]
    totals = []
    for row in stored:
        training = row["training"] + row["weights"]
        test = row["test"] + row["weights_deployed"]
        totals.append((training, training + row["optimizer"], test))
    rows = []
    for row, (training, states, test) in zip(stored, totals, strict=True):
        gib = [row["weights"], row["optimizer"], training, states]
        over = f"{states / totals[0][1]:.2f}", f"{test / GIB:.2f}", f"{test / totals[0][2]:.2f}"
        encoder = "dense" if row["encoder"] == "dense" else "Cropr"
        rows.append([encoder, str(row["batch"]), *(f"{x / GIB:.2f}" for x in gib), *over])
    head = ["model", "images", "weights GiB", "AdamW GiB", "training GiB", "with AdamW"]
    return markdown([*head, "over dense", "test GiB", "over dense"], rows)


def memory_of_recipes() -> str:
    """Estimated memory of a training step of every recipe, with the GPU that has it."""
    head, *rows = recipe_memory.table(record("memory_recipes")["rows"])
    return markdown([name.replace("cropr", "pruned") for name in head], rows)


def encoder_only_camvid() -> str:
    """Short trainings of an encoder-only segmenter, dense and pruned."""
    part = ("Road", "Building", "Car", "Pedestrian", "Pole")
    head = ["config", "dice loss at 10", "at 160", "mIoU, %", *(f"{name}, %" for name in part)]
    rows = [
        [
            f"`{name}`",
            *(f"{run['losses']['loss_dice'][i]:.2f}" for i in (0, -1)),
            f"{run['mIoU']:.1f}",
            *(f"{run['iou'][label]:.1f}" for label in part),
        ]
        for name, run in record("encoder_only_camvid")["runs"].items()
    ]
    return markdown(head, rows)


def hybrids() -> str:
    """Short trainings of small CvT and PS-ViT, dense and pruned."""
    head = ["config", "loss at 50", "loss at 800", "validation top-1, %"]
    rows = [
        [
            f"`{name}`",
            *(f"{run['loss'][part]:.2f}" for part in ("first", "last")),
            f"{run['top-1']:.1f}",
        ]
        for name, run in record("hybrids_trashnet")["runs"].items()
    ]
    return markdown(head, rows)
