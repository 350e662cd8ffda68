"""The tables of training and memory in docs/performance.md say what the stored records say."""

from stored_tables import ROOT, interval, record, rows_below, rows_of_idle, table

EXACT = "cropr, exact"
GIB = 2**30
STEPS = [
    ("train_eva02l_512_cpu", EXACT),
    ("train_eva02l_512_cpu", "256 cells"),
    ("train_eva02l_512_b6_cpu", EXACT),
    ("train_eva02l_512_b6_cpu", "256 cells"),
    ("train_vitl_224_cpu", EXACT),
    ("train_vitl_224_b64_cpu", EXACT),
    ("train_eva02b_1024_cpu", EXACT),
]


def test_training_steps() -> None:
    _, *rows = rows_below("--json benchmarks/results/train_eva02b_1024_cpu.json")
    for row, (name, variant) in zip(rows, STEPS, strict=True):
        stored = record(name)
        counts, dense = stored["counted"][variant], stored["counted"]["dense"]
        both = [sum(c[kind] for kind in ("weights", "step")) for c in (counts, dense)]
        assert f"batch {stored['batch_size']}" in row[0]
        assert variant in row[0]
        assert row[1:] == [
            f"{dense['macs'] / counts['macs']:.2f}",
            speed(name, variant),
            share(name, variant),
            f"{counts['step'] / dense['step']:.2f} x dense",
            f"{both[0] / both[1]:.2f} x dense",
        ]


def speed(name: str, variant: str = EXACT) -> str:
    """Of a timed step over the dense one."""
    timed = rows_of_idle(record(name)["measured"])[variant]
    return interval(**timed["speedup"], rounds=len(timed["times_ms"]))


def share(name: str, variant: str = EXACT) -> str:
    """Of the speed that multiply-adds allow."""
    stored = record(name)
    macs = {one: counts["macs"] for one, counts in stored["counted"].items()}
    value = stored["measured"]["functions"][variant]["speedup"]["value"]
    return f"{value * macs[variant] / macs['dense']:.2f}"


def test_training_over_the_batch() -> None:
    batches = {"eva02l_512": (1, 2, 4, 6, 8, 16), "vitl_224": (8, 16, 32, 64, 128)}
    batches |= {"eva02l_1536": (1, 2, 4, 8), "eva02b_1024": (1, 8)}
    found = []
    for name, batch in ((n, b) for n, all_of in batches.items() for b in all_of):
        dense, pruned = step_bytes(name, batch)
        weighted = [sum(one.values()) - one["optimizer"] for one in (dense, pruned)]
        found.append(
            [
                str(batch),
                *(f"{sum(one.values()) / GIB:.2f}" for one in (dense, pruned)),
                over_dense(name, batch),
                f"{weighted[1] / weighted[0]:.2f}",
            ]
        )
    assert [list(row.values())[1:] for row in table("Training over the batch")] == found


def step_bytes(name: str, batch: int) -> list[dict[str, int]]:
    """Weights, states and the step of the dense and of the pruned model."""
    rows = [row for row in record(f"memory_step_{name}")["rows"] if row["batch"] == batch]
    assert [row["encoder"] for row in rows] == ["dense", EXACT]
    return [{kind: row[kind] for kind in ("weights", "step", "optimizer")} for row in rows]


def over_dense(name: str, batch: int) -> str:
    """Memory of a pruned step with all states."""
    dense, pruned = (sum(one.values()) for one in step_bytes(name, batch))
    return f"{pruned / dense:.2f}"


def test_aims_of_training() -> None:
    seg, det, cls, cells = "eva02l_512", "eva02b_1024", "vitl_224", "256 cells"
    shown = [(row["batch"], row["measured"]) for row in table("Aims of training")]
    assert shown == [
        ("1", share(f"train_{seg}_cpu")),
        ("6", share(f"train_{seg}_b6_cpu")),
        ("1", speed(f"train_{seg}_cpu", cells)),
        ("6", speed(f"train_{seg}_b6_cpu", cells)),
        ("1, 6, 8", ", ".join(over_dense(seg, batch) for batch in (1, 6, 8))),
        ("8", speed(f"train_{cls}_cpu")),
        ("64", speed(f"train_{cls}_b64_cpu")),
        ("8, 64, 128", ", ".join(over_dense(cls, batch) for batch in (8, 64, 128))),
        ("1", speed(f"train_{det}_cpu")),
        ("1, 8", ", ".join(over_dense(det, batch) for batch in (1, 8))),
    ]


def test_memory_over_image_sizes() -> None:
    stored = record("memory_size")["rows"]
    rows = rows_below("## Over image sizes\n")[1:]
    assert len(rows) == len(stored) / 4, "four batches in a row"
    for image, encoder, *cells in rows:
        own, dense = (
            [s for s in stored if (f"{s['side']} px", s["encoder"]) == (image, name)]
            for name in (encoder, "dense")
        )
        training = [s["weights"] + s["training"] for s in own]
        test = [s["weights_deployed"] + s["test"] for s in own]
        ratios = [t / (s["weights"] + s["training"]) for t, s in zip(training, dense, strict=True)]
        model = [s["weights"] + s["analytic_training"] for s in own]
        model_test = [s["weights_deployed"] + s["analytic_test"] for s in own]
        assert [s["batch"] for s in own] == [1, 2, 4, 8]
        assert cells == [
            ", ".join(f"{t / GIB:.1f}" for t in training),
            ", ".join(f"{ratio:.2f}" for ratio in ratios),
            lowest_to_highest(training, model),
            ", ".join(f"{t / GIB:.2f}" for t in test),
            lowest_to_highest(test, model_test),
        ]


def lowest_to_highest(found: list[int], expected: list[int]) -> str:
    """Range of ratios as the table writes it."""
    ratios = [f / e for f, e in zip(found, expected, strict=True)]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def test_memory_of_the_whole_detector() -> None:
    stored = record("memory_model_eva02l_1536")["rows"]
    rows = rows_below("--json benchmarks/results/memory_model_eva02l_1536.json")[1:]
    dense = stored[0]
    for row, need in zip(rows, stored, strict=True):
        training, test = need["training"] + need["weights"], need["test"] + need["weights_deployed"]
        dense_test = dense["test"] + dense["weights_deployed"]
        states = training + need["optimizer"]
        dense_states = dense["training"] + dense["weights"] + dense["optimizer"]
        gib = [need["weights"], need["optimizer"], training, states]
        assert row[0] == str(need["batch"])
        assert row[2:] == [
            *(f"{x / GIB:.2f}" for x in gib),
            f"{states / dense_states:.2f}",
            f"{test / GIB:.2f}",
            f"{test / dense_test:.2f}",
        ]
    hundred = [s["training"] + s["weights"] for s in record("memory_model_eva02l_1536_100")["rows"]]
    usual = [s["training"] + s["weights"] for s in stored]
    cells = [f"{x / GIB:.2f}" for x in (*hundred, *usual)]
    head = "needs {} and {} GiB in place\nof {} and {}.".format(*cells)
    assert head in (ROOT / "docs/performance.md").read_text()
