"""The tables of docs/performance.md say what the stored measurements say."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"


def table(title: str, file: str = "docs/performance.md") -> list[dict[str, str]]:
    """Rows of the first table below a title, cells by column."""
    text = (ROOT / file).read_text().split(f"## {title}\n")[1]
    lines = text[text.index("\n| ") :].strip().split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def of_floor(function: dict[str, Any], kind: str) -> str:
    if kind not in function:
        return "-"
    return interval(function[kind], *function[f"{kind}_interval"])


@pytest.mark.parametrize(
    ("title", "file"),
    [
        ("EVA-02-L, 512 pixels, 40 tokens a block, one image", "eva02l_512_cpu.json"),
        ("EVA-02-B detector's encoder, 1024 pixels in windows, one image", "eva02b_1024_cpu.json"),
        ("EVA-02-L, 512 pixels, without AMX", "eva02l_512_zen4_cpu.json"),
        ("EVA-02-B, 1024 pixels, without AMX", "eva02b_1024_zen4_cpu.json"),
    ],
)
def test_encoders_side_by_side(title: str, file: str) -> None:
    group = json.loads((RESULTS / file).read_text())["batches"]["1"]
    assert group["idle"], "else it does not count"
    rows = table(title)
    assert len(rows) == len(group["functions"])
    for row, (name, function) in zip(rows, group["functions"].items(), strict=True):
        assert row["encoder"] == name.replace(name.split(",")[0], row["encoder"].split(",")[0])
        assert row["x of floor"] == of_floor(function, "times_floor")
        assert row["x of packed floor"] == of_floor(function, "times_packed_floor")
        assert row["over dense"] == interval(**function["speedup"])
        for base, ratio in function["speedup_over"].items():
            if f"over {base}" in row:
                assert row[f"over {base}"] == interval(**ratio)


def test_readme() -> None:
    files = {"EVA-02-L": "eva02l_512_cpu.json", "EVA-02-B": "eva02b_1024_cpu.json"}
    rows = table("Speed", "README.md")
    assert {(row["encoder"].rpartition(", ")[2], row["form"]) for row in rows} == {
        ("dense", "compiled"),
        ("Cropr", "eager"),
        ("Cropr", "compiled"),
    }
    for row in rows:
        group = json.loads((RESULTS / files[row["encoder"].split(",")[0]]).read_text())
        functions = group["batches"]["1"]["functions"]
        encoder = row["encoder"].rpartition(", ")[2].lower()
        (name,) = (
            name
            for name in functions
            if name.startswith(encoder) and name.endswith(", compiled") == (row["form"] != "eager")
        )
        function = functions[name]
        assert row["over dense, eager"] == f"{function['speedup']['value']:.2f}"
        ratio = function["speedup_over"]["dense, compiled"]["value"]
        assert row["over dense, compiled"] == f"{ratio:.2f}"
        assert row["x of floor"] == f"{function['times_floor']:.2f}"


def rows_below(command: str) -> list[list[str]]:
    """Cells of the first table of docs/performance.md behind a command, without its head."""
    text = (ROOT / "docs/performance.md").read_text().split(command)[1]
    lines = text[text.index("\n| ") :].strip().split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_scale_and_detection() -> None:
    groups = [
        group
        for study in ("scale", "detection")
        for group in json.loads((RESULTS / f"{study}_cpu.json").read_text())["groups"].values()
    ]
    rows = rows_below("--json benchmarks/results/detection_cpu.json")
    assert len(rows) == len(groups) == 7
    for row, group in zip(rows, groups, strict=True):
        assert group["idle"], row
        dense, pruned = group["functions"].values()
        gmacs = [
            sum(one["floor"][f"macs_{kind}"] for kind in ("linear", "attention")) / 1e9
            for one in (dense, pruned)
        ]
        assert row[3] == f"{gmacs[0]:.0f} to {gmacs[1]:.0f}"
        assert row[4] == interval(**pruned["speedup"])
        assert row[6:] == [of_floor(one, "times_floor") for one in (dense, pruned)]


def test_whole_models() -> None:
    files = ("model_eva02l_512_zen4_cpu.json", "model_eva02b_1024_zen4_cpu.json")
    rows = rows_below(f"--json benchmarks/results/{files[1]}")
    for row, file in zip(rows, files, strict=True):
        record = json.loads((RESULTS / file).read_text())
        group = record["batches"]["1"]
        assert group["idle"], file
        assert row[1] == record["dtype"]
        dense, pruned = group["functions"].values()
        assert row[2] == interval(**pruned["speedup"])
        assert row[3:] == [of_floor(one, "times_floor") for one in (dense, pruned)]


def test_aims() -> None:
    rows = table("Aims")
    machines = {"with AMX": "cpu", "without": "zen4_cpu"}
    for column, machine in machines.items():
        files = (RESULTS / f"{name}_{machine}.json" for name in ("eva02l_512", "eva02b_1024"))
        records = (json.loads(file.read_text()) for file in files)
        large, base = (record["batches"]["1"]["functions"] for record in records)
        pruned, small = (
            next(f for n, f in group.items() if n.startswith("cropr") and n.endswith(", compiled"))
            for group in (large, base)
        )
        dense = large["dense, compiled"]
        over = pruned["speedup_over"]["literal"]
        expected = [interval(**over)]
        expected += [of_floor(f, "times_floor") for f in (dense, pruned)]
        expected += [of_floor(f, "times_floor") for f in (base["dense, compiled"], small)]
        expected += [interval(**large["dense"]["speedup_over"]["timm"])]
        expected += [interval(**dense["speedup_over"]["timm, compiled"])]
        assert [row[column] for row in rows[: len(expected)]] == expected
