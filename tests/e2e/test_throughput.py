"""benchmarks/speed.py throughput from the command line, with the smallest models."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cropr_mm.layers.arch import ARCHS, Arch
from cropr_mm.profiling import compare
from cropr_mm.profiling.environment import git_commit
from experiments import throughput as throughput_program

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/speed.py"
TINY = ("--arch", "plain", "--img-sizes")
LENGTHS = [f"{count} tokens" for count in (16, 15, 16, 15, 64, 63, 64, 63)]
# The CPU of torch 2.1 has no convolutions in float16.
DTYPES = ["fp32", "bf16", "amp"] + ["fp16"] * (not torch.__version__.startswith("2.1."))
SMALL = Arch(embed_dim=32, depth=4, num_heads=2)


@pytest.fixture
def throughput(tool: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The script, which also knows two very small architectures."""
    monkeypatch.setitem(ARCHS, "plain", SMALL)
    monkeypatch.setitem(ARCHS, "twelve", replace(SMALL, depth=12, rope="eva", pos_embed=False))
    return lambda *args: tool(str(SCRIPT), "throughput", *args)


@pytest.mark.parametrize(
    ("study", "args", "groups", "rows"),
    [
        ("rates", (*TINY, "224"), 1, [f"R={rate}" for rate in range(9)]),
        (
            "precision",
            (*TINY, "64", "--sdpa", "auto", "--dtype", *DTYPES),
            1,
            [f"{label}, {dtype} auto" for dtype in DTYPES for label in ("dense", "R=4")],
        ),
        ("length", (*TINY, "64", "128"), 4, LENGTHS),
        ("scale", (*TINY, "224"), 4, [s for r in (16, 8, 18, 32) for s in ("dense", f"R={r}")]),
        ("detection", ("--arch", "twelve", "--img-sizes", "512"), 1, ["dense", "Cropr"]),
        ("curve", (*TINY, "64", "--batch-sizes", "1", "2"), 2, ["dense", "R=2", "R=4"] * 2),
    ],
)
def test_every_study_prints_and_writes_its_groups(
    throughput: Callable[..., str],
    tmp_path: Path,
    study: str,
    args: tuple[str, ...],
    groups: int,
    rows: list[str],
) -> None:
    file, plot = tmp_path / "a.json", tmp_path / "a.png"
    out = throughput(study, *args, "--rounds", "1", "--json", file, "--plot", plot)
    assert [line.split("  ")[0] for line in out.splitlines() if "x (" in line] == rows
    record = json.loads(file.read_text())
    assert (record["study"], record["rounds"]) == (study, 1)
    assert record["command"].startswith(f"python {SCRIPT} throughput {study}")
    assert len(record["groups"]) == groups
    for group in record["groups"].values():
        base, *others = group["functions"].values()
        assert base["speedup"]["value"] == 1
        work = [f["floor"]["macs_linear"] for f in (base, *others)]
        one_mode = len({f["mode"]["dtype"] for f in (base, *others)}) == 1
        assert work == (sorted(set(work), reverse=True) if one_mode else work[:2] * len(DTYPES))
        for function in (base, *others):
            assert function["times_floor"] > 0
            assert len(function["tokens_per_block"]) in (4, 12)
            assert ("memory_estimated" in function) == (study in ("detection", "curve"))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a_sizes.png").exists() == (study == "curve")


def test_a_run_goes_on_where_it_stopped(throughput: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    args = ("curve", *TINY, "64", "--rounds", "1", "--json", file)
    throughput(*args)
    record = json.loads(file.read_text())
    (first,) = record["groups"].values()
    assert first["commit"] == git_commit()

    def again(changes: dict[str, Any]) -> bool:
        key = next(iter(record["groups"]))
        file.write_text(json.dumps(record | {"groups": {key: first | changes}}))
        return "measured before" not in throughput(*args)

    assert again(dict(idle=False)), "such times do not count"
    assert again(dict(idle=True, settings_hash="of another config"))
    assert not again(dict(idle=True, commit="another one"))

    digest = first.pop("settings_hash")
    assert again(dict(idle=True)), "as in files of earlier versions, timed in another way"

    first |= dict(settings_hash=digest, idle=True)
    file.write_text(json.dumps(record))
    out = throughput(*args, "--batch-sizes", "1", "2")
    assert out.count("measured before") == 1
    groups = list(json.loads(file.read_text())["groups"].values())
    assert groups[0] == first
    assert len(groups) == 2


def test_other_modes_are_another_group(throughput: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    args = ("precision", *TINY, "64", "--rounds", "5", "--sdpa", "auto", "--json", file, "--dtype")
    out = throughput(*args, "fp32", "bf16")
    assert "in its mode and form" in out
    throughput(*args, "fp32")
    two, one = json.loads(file.read_text())["groups"].items()
    title = "plain, 64 px, {}, attention kernel auto, cpu, batch 1"
    assert [two[0], one[0]] == [title.format("fp32 bf16"), title.format("fp32")]
    functions = two[1]["functions"]
    assert functions["R=4, bf16 auto"]["mode"] == dict(dtype="bf16", sdpa="auto", device="cpu")
    times = {name: function["median_ms"] for name, function in functions.items()}
    for dtype in ("fp32", "bf16"):
        ((base, ratio),) = functions[f"R=4, {dtype} auto"]["speedup_over"].items()
        assert base == f"dense, {dtype} auto"
        assert ratio["value"] == pytest.approx(times[base] / times[f"R=4, {dtype} auto"])
    assert list(one[1]["functions"]) == ["dense", "R=4"]


def test_compiled_forms_take_turns_with_eager_ones(
    throughput: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", lambda function, mode, **options: quick(function))
    out = throughput("curve", *TINY, "64", "--rounds", "1", "--compile")
    rows = [line.split("  ")[0] for line in out.splitlines() if "x (" in line]
    assert rows == [f"{x}{form}" for x in ("dense", "R=2", "R=4") for form in ("", ", compiled")]


def test_a_group_that_the_machine_is_too_small_for_is_named_and_the_others_run(
    throughput: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compare.time_side_by_side

    def limited(entries: Any, batch: Any, **options: Any) -> Any:
        if len(batch) == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 64 GiB\nmore")
        if len(batch) == 3:
            raise RuntimeError("a defect")
        return real(entries, batch, **options)

    monkeypatch.setattr(throughput_program, "time_side_by_side", limited)
    file = tmp_path / "a.json"
    args = ("curve", *TINY, "64", "--rounds", "1", "--json", file, "--batch-sizes")
    out = throughput(*args, "2", "1", "--plot", tmp_path / "a.png")
    assert "did not run: CUDA out of memory. Tried to allocate 64 GiB\n" in out
    failed, ran = json.loads(file.read_text())["groups"].values()
    assert (failed["error"], failed["idle"]) == (
        "CUDA out of memory. Tried to allocate 64 GiB",
        False,
    )
    assert "functions" not in failed
    assert "functions" in ran
    with pytest.raises(RuntimeError, match="a defect"):
        throughput(*args, "3")


def test_rows_without_a_kernel_are_named_and_the_others_run(
    throughput: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compare.Entry.run

    def limited(entry: compare.Entry, batch: Any) -> object:
        if entry.mode.dtype == "fp32":
            raise RuntimeError("No available kernel. Aborting execution.")
        return real(entry, batch)

    monkeypatch.setattr(compare.Entry, "run", limited)
    file = tmp_path / "a.json"
    args = ("precision", *TINY, "64", "--rounds", "1", "--sdpa", "auto", "--json", file)
    out = throughput(*args, "--dtype", "fp32", "bf16")
    assert "dense, fp32 auto did not run: No available kernel. Aborting execution.\n" in out
    (group,) = json.loads(file.read_text())["groups"].values()
    assert list(group["functions"]) == ["dense, bf16 auto", "R=4, bf16 auto"]
    assert list(group["errors"]) == ["dense, fp32 auto", "R=4, fp32 auto"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("rates", "--json", "nowhere/a.json"), "--json expects a file in a folder that exists"),
        (("rates", "--batch-sizes", "0"), "expected batch sizes >= 1, got [0]"),
        (("rates", "--rounds", "0", *TINY, "224"), "expected rounds >= 1"),
        (("curve", "--img-sizes", "100"), "multiples of 16 pixels"),
        (("rates", "--device", "gpu"), "expected a device that is there (cpu"),
        (("rates", "--arch", "vit_larg"), "is none of the"),
        (("scale", *TINY, "64"), "min_keep ends the removal in time"),
    ],
)
def test_bad_input_ends_in_one_line(
    throughput: Callable[..., str], args: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        throughput(*args)
    assert str(end.value).startswith("error: ")
    assert message in str(end.value)
    assert len(str(end.value).splitlines()) == 1


def test_times_of_another_run_are_not_mixed_in(
    throughput: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"study": "scale", "groups": {}}))
    with pytest.raises(SystemExit, match="of another run: expected study rates, got scale"):
        throughput("rates", *TINY, "224", "--json", file)
