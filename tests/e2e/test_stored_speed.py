"""The tables of speed in docs/performance.md and README say what the stored measurements say."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import pytest
from stored_tables import ROOT, interval, measured, of_floor, record, rows_below, studied, table

from cropr_mm.profiling.latency import Latencies

T = TypeVar("T")
EAGER = "cropr_eva02_segmenter_ade20k"
COMPILED = f"{EAGER}, compiled"
RIVALS = ("timm, compiled", "literal, compiled")
SUITES = {
    "EVA-02-L, 512 pixels, 40 tokens a block, one image": "eva02l_512_cpu",
    "EVA-02-B detector's encoder, 1024 pixels in windows, one image": "eva02b_1024_cpu",
    "EVA-02-L, 512 pixels, without AMX": "eva02l_512_zen4_cpu",
    "EVA-02-B, 1024 pixels, without AMX": "eva02b_1024_zen4_cpu",
    "EVA-02-L, 512 pixels, four images, without AMX": "eva02l_512_b4_zen4_cpu",
}


@pytest.mark.parametrize(("title", "name"), SUITES.items())
def test_encoders_side_by_side(title: str, name: str) -> None:
    functions = measured(name, batch=4 if "four images" in title else 1)
    rows = table(title)
    assert [row["encoder"] for row in rows] == [
        re.sub(r"^cropr_\w+", "cropr", n) for n in functions
    ]
    for row, function in zip(rows, functions.values(), strict=True):
        assert row["x of floor"] == of_floor(function)
        assert row["x of packed floor"] == of_floor(function, "times_packed_floor")
        assert row["over dense"] == interval(**function["speedup"])
        over = {f"over {base}": ratio for base, ratio in function["speedup_over"].items()}
        for column in row.keys() - {"encoder", "x of floor", "x of packed floor", "over dense"}:
            assert row[column] == interval(**over[column])


def test_readme() -> None:
    names = {"EVA-02-L": "eva02l_512_cpu", "EVA-02-B": "eva02b_1024_cpu"}
    rows = table("Speed", "README.md")
    assert {(row["encoder"].rpartition(", ")[2], row["form"]) for row in rows} == {
        ("dense", "compiled"),
        ("Cropr", "eager"),
        ("Cropr", "compiled"),
    }
    for row in rows:
        model, _, encoder = row["encoder"].rpartition(", ")
        functions = measured(names[model.split(",")[0]])
        function = row_of(functions, encoder.lower(), row["form"] != "eager")
        assert row["over dense, eager"] == f"{function['speedup']['value']:.2f}"
        ratio = function["speedup_over"]["dense, compiled"]["value"]
        assert row["over dense, compiled"] == f"{ratio:.2f}"
        assert row["x of floor"] == f"{function['times_floor']:.2f}"


def test_readme_against_others() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    with_amx, without = (
        [ratio(measured(f"eva02l_512_{machine}"), COMPILED, base).split()[0] for base in RIVALS]
        for machine in ("cpu", "zen4_cpu")
    )
    expected = f"{with_amx[0]} times timm's dense model and {with_amx[1]} times the published step"
    assert f"{expected}; without {without[0]} and {without[1]}." in text


def row_of(rows: Mapping[str, T], encoder: str, compiled: bool = True) -> T:
    """The row whose name begins with the encoder's, in one form."""
    (found,) = (
        row
        for name, row in rows.items()
        if name.startswith(encoder) and name.endswith(", compiled") == compiled
    )
    return found


def test_scale_and_detection() -> None:
    groups = [*studied("scale_cpu"), *studied("detection_cpu")]
    _, *rows = rows_below("--json benchmarks/results/detection_cpu.json")
    for row, functions in zip(rows, groups, strict=True):
        dense, pruned = functions.values()
        assert row[3] == f"{gmac(dense):.0f} to {gmac(pruned):.0f}"
        assert row[4] == interval(**pruned["speedup"])
        assert row[6:] == [of_floor(dense), of_floor(pruned)]


def gmac(function: dict[str, Any]) -> float:
    """Billions of multiply-adds of one call."""
    return sum(function["floor"][f"macs_{kind}"] for kind in ("linear", "attention")) / 1e9


def test_whole_models() -> None:
    names = ("model_eva02l_512_zen4_cpu", "model_eva02b_1024_zen4_cpu")
    _, *rows = rows_below(f"--json benchmarks/results/{names[1]}.json")
    for row, name in zip(rows, names, strict=True):
        assert row[1] == record(name)["dtype"]
        dense, pruned = measured(name).values()
        assert row[2] == interval(**pruned["speedup"])
        assert row[3:] == [of_floor(dense), of_floor(pruned)]


def test_pruning_rates() -> None:
    _, *rows = rows_below("--plot docs/images/speed_rates.png")
    one, eight = studied("rates_cpu")
    for row, name in zip(rows, one, strict=True):
        assert f"R={row[0]}" == name
        assert row[1] == f"{100 * removed(one[name]):.0f} %"
        cells = [
            cell
            for functions in (one, eight)
            for cell in (
                interval(**functions[name]["speedup"]),
                f"{functions[name]['times_floor']:.2f}",
            )
        ]
        assert row[2:] == cells
    one, eight = (
        {name: f"{f['speedup']['value']:.2f}" for name, f in functions.items()}
        for functions in studied("rates_amx_cpu")
    )
    few = sorted(one[f"R={k}"] for k in (1, 2, 3))
    text = " ".join((ROOT / "docs/performance.md").read_text().split())
    assert f"a block: {few[0]} to {few[-1]} times dense, and {one['R=8']} at eight;" in text
    assert f"eight images gained {eight['R=8']} (" in text


def removed(function: dict[str, Any]) -> float:
    """Share of the patch tokens that the last block before fusion does not see."""
    whole, last = (function["tokens_per_block"][i] - 1 for i in (0, -2))  # a class token
    return 1 - last / whole


def test_image_sizes() -> None:
    _, *rows = rows_below("--plot docs/images/speed_curve.png")
    found = [
        [
            f"{side} px",
            name,
            f"{gmac(function):.0f}",
            interval(**function["speedup"]),
            of_floor(function),
            f"{training_bytes(function) / training_bytes(functions['dense']):.2f}",
        ]
        for side, functions in zip((512, 768, 1024), studied("curve_cpu"), strict=True)
        for name, function in functions.items()
    ]
    assert rows == found


def training_bytes(function: dict[str, Any]) -> int:
    """Weights and the peak of one training step without an optimiser."""
    need = function["memory_estimated"]
    return need["weights"] + need["training"]


def test_precision() -> None:
    _, *rows = rows_below("--rounds 5 --json benchmarks/results/precision_cpu.json")
    (functions,) = studied("precision_cpu")
    found = []
    for name, function in functions.items():
        encoder, _, kind = name.partition(", ")
        (own,) = function["speedup_over"].values()
        ratios = interval(**function["speedup"]), interval(**own)
        found.append([*kind.split(), encoder, *ratios, of_floor(function)])
    assert rows == found


def test_sequence_length() -> None:
    _, *rows = rows_below("--json benchmarks/results/length_cpu.json")
    found = [
        [interval(**functions["1023 tokens"]["speedup"]), *map(of_floor, functions.values())]
        for functions in studied("length_cpu")
    ]
    assert [row[1:] for row in rows] == found


def test_operators() -> None:
    head, *rows = rows_below("## Where the rest of the time goes\n")
    files = {"EVA-02-L, 512 px": "eva02l_512_cpu", "EVA-02-B, 1024 px": "eva02b_1024_cpu"}
    assert len(rows) == 5, head
    for row in rows:
        title, _, encoder = row[0].rpartition(", ")
        function = row_of(measured(files[title]), encoder)
        shares = row_of(record(files[title])["batches"]["1"]["operators"], encoder)
        linear = shares["mkldnn::_linear_pointwise"]
        attention = sum(share for name, share in shares.items() if "attention" in name)
        alone = [
            share * function["median_ms"] / function["packed_floor"][f"{kind}_ms"]
            for kind, share in (("linear", linear), ("attention", attention))
        ]
        assert row[1:4] == [f"{100 * x:.0f} %" for x in (linear, attention, 1 - linear - attention)]
        assert row[4:] == [f"{x:.2f}" for x in alone]


def test_what_was_tried() -> None:
    _, *rows = rows_below("benchmarks/alternatives.py --json benchmarks/results/alternatives")
    groups = studied("alternatives_cpu")
    times = {name: f["median_ms"] for functions in groups for name, f in functions.items()}
    for _, used, instead, cell in rows:
        ratio = times[instead] / times[used]
        assert cell == (f"{ratio:.1f} x" if ratio > 1 else f"{ratio:.2f} x")


def test_aims_of_encoders() -> None:
    rows = table("Aims of encoders")
    for column, machine in {"with AMX": "cpu", "without": "zen4_cpu"}.items():
        large, base = measured(f"eva02l_512_{machine}"), measured(f"eva02b_1024_{machine}")
        of_random = measured("random_cpu") if machine == "cpu" else large
        expected = [
            ("over the eager published step", ratio(large, COMPILED, "literal")),
            ("over the compiled published step", ratio(large, COMPILED, "literal, compiled")),
            ("EVA-02-L: compiled dense, x", of_floor(row_of(large, "dense"))),
            ("EVA-02-L: compiled and pruned, x", of_floor(row_of(large, "cropr"))),
            ("compiled dense, x", of_floor(row_of(base, "dense"))),
            ("EVA-02-B: compiled and pruned, x", of_floor(row_of(base, "cropr"))),
            ("timm's, eager", ratio(large, "dense", "timm")),
            ("both compiled", ratio(large, "dense, compiled", "timm, compiled")),
            ("random choice, eager", ratio(of_random, EAGER, "random")),
            ("random choice, compiled", ratio(of_random, COMPILED, "random, compiled")),
        ]
        for row, (what, cell) in zip(rows, expected, strict=False):
            assert what in row["what"]
            assert row[column] == cell
        assert all(row[column] == "unmeasured" for row in rows[len(expected) :])


def ratio(functions: dict[str, dict[str, Any]], name: str, base: str) -> str:
    """Speed of one row of a run over another one's, with its interval."""
    times = {row: tuple(function["times_ms"]) for row, function in functions.items()}
    return interval(*Latencies(times, items=1, load=0, threads=2, device="cpu").speedup(name, base))
