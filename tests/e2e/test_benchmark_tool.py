"""tools/benchmark.py from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor

from cropr_mm.build import build_model
from cropr_mm.engine.config import load_config
from cropr_mm.profiling import candidates, compare
from cropr_mm.profiling.environment import git_commit

ROOT = Path(__file__).parents[2]
Tool = Callable[..., str]
SEGMENTER = str(ROOT / "configs/demo/cropr_tiny_segmenter_digits.py")
NO_MODEL = str(ROOT / "configs/_base_/runtime/default.py")
CAMVID = ROOT / "configs/segmentation/cropr_tiny_segmenter_camvid.py"


def test_two_encoders_at_two_batch_sizes(tool: Tool, tmp_path: Path) -> None:
    file, plot = tmp_path / "speed.json", tmp_path / "speed.png"
    twin = SEGMENTER.replace("cropr_", "unpruned_")
    args = ["--batch-sizes", "1", "2", "--rounds", "2", "--img-size", "136", "128", "--profile"]
    args += ["--dtype", "bf16", "--json", str(file), "--plot", str(plot)]
    out = tool("benchmark.py", twin, SEGMENTER, *args)
    record = json.loads(file.read_text())
    assert (record["dtype"], record["img_size"]) == ("bf16", [136, 128])
    names = [Path(path).stem for path in (twin, SEGMENTER)]
    for batch_size in ("1", "2"):
        assert f"batch {batch_size}" in out
        functions = record["batches"][batch_size]["functions"]
        assert list(functions) == names
        operators = record["batches"][batch_size]["operators"]
        assert list(operators) == names
        assert all("aten::addmm" in shares for shares in operators.values())
        assert f"{names[0]}: {next(iter(operators[names[0]]))} " in out
        floors = [entry["floor"] for entry in functions.values()]
        assert floors[0]["macs_linear"] > floors[1]["macs_linear"]
        assert {p["dtype"] for p in floors[0]["products"]} == {"torch.bfloat16"}
    assert record["command"].startswith("python tools/benchmark.py ")
    assert record["commit"] == git_commit()
    assert len(record["settings_hash"]) == 12
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("form", [("--compile",), ("--compile", "--freeze")])
def test_compiled_beside_eager(tool: Tool, tmp_path: Path, form: tuple[str, ...]) -> None:
    config = tmp_path / "cropr_small.py"
    config.write_text(
        f"_base_ = '{SEGMENTER}'\n"
        "arch = dict(depth=3, embed_dim=16, num_heads=2)\n"
        "model = dict(backbone=dict(arch=arch), decode_head=dict(in_channels=16, channels=16))\n"
    )
    torch._dynamo.reset()  # so that each form is compiled, and not taken from the one before
    with inductor.patch(freezing=False):
        out = tool("benchmark.py", config, *form, "--rounds", "2")
        assert inductor.freezing == ("--freeze" in form)
    rows = [line.split("  ")[0] for line in out.splitlines() if "x (" in line]
    assert rows == ["cropr_small", "cropr_small, compiled"]
    assert ("weights frozen" in out) == ("--freeze" in form)
    assert ("x of packed floor" in out) == ("--freeze" in form and torch._C.has_mkl)


def test_a_whole_detector_against_its_dense_twin(tool: Tool, tmp_path: Path) -> None:
    config = ROOT / "configs/demo/cropr_tiny_cascade_digits.py"
    file = tmp_path / "speed.json"
    args = ["--part", "model", "--baselines", "dense", "random", "--rounds", "2", "--json", file]
    out = tool("benchmark.py", config, *args, "--against", "random")
    rows = [line.split()[0] for line in out.splitlines() if "x (" in line]
    assert rows == ["dense", "cropr_tiny_cascade_digits", "random"]
    functions = json.loads(file.read_text())["batches"]["1"]["functions"]
    times = {name: function["median_ms"] for name, function in functions.items()}
    for name, function in functions.items():
        ratio = function["speedup_over"]["random"]["value"]
        assert ratio == pytest.approx(times["random"] / times[name])
        row = next(line for line in out.splitlines() if line.startswith(name))
        assert f"{ratio:.3f}x (-)" in row, "two rounds have no interval"
        (count,) = function["instances"]
        assert row.endswith(f"  {count:.1f}")


def test_detections_are_those_of_the_checkpoint(tool: Tool, tmp_path: Path) -> None:
    config = ROOT / "configs/demo/cropr_tiny_cascade_digits.py"
    weights = build_model(load_config(str(config))).state_dict()
    blind = {k: v - 100 * ("rpn_cls.bias" in k) for k, v in weights.items()}
    for name in [k for k in blind if "fc_cls.bias" in k]:
        blind[name] = torch.where(torch.arange(len(blind[name])) == len(blind[name]) - 1, 100.0, 0)
    file, json_file = tmp_path / "a.pth", tmp_path / "speed.json"
    torch.save({"state_dict": blind}, file)
    args = ["--part", "model", "--rounds", "1", "--checkpoint", file, "--json", json_file]
    tool("benchmark.py", config, *args)
    record = json.loads(json_file.read_text())
    assert record["checkpoint"] == str(file)
    (function,) = record["batches"]["1"]["functions"].values()
    assert function["instances"] == [0], "all is background"
    torch.save({"state_dict": dict(list(weights.items())[1:])}, file)
    with pytest.raises(SystemExit, match="is not a checkpoint of this config"):
        tool("benchmark.py", config, *args)


def test_a_batch_that_is_too_large_is_named_and_the_others_run(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, file = compare.time_side_by_side, tmp_path / "speed.json"

    def limited(entries: Any, batch: Any, **options: Any) -> Any:
        if len(batch) == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 64 GiB\nmore")
        if len(batch) == 4:
            raise RuntimeError("a defect")
        return real(entries, batch, **options)

    monkeypatch.setattr(compare, "time_side_by_side", limited)
    args = (SEGMENTER, "--rounds", "1", "--json", file, "--batch-sizes")
    out = tool("benchmark.py", *args, "2", "1", "--plot", tmp_path / "a.png")
    assert "batch 2\ndid not run: CUDA out of memory. Tried to allocate 64 GiB\n" in out
    failed, ran = json.loads(file.read_text())["batches"].values()
    assert failed == {"error": "CUDA out of memory. Tried to allocate 64 GiB", "idle": False}
    assert "functions" in ran
    with pytest.raises(RuntimeError, match="a defect"):
        tool("benchmark.py", *args, "1", "4")
    assert list(json.loads(file.read_text())["batches"]) == ["1"], "written after each"


def test_a_batch_that_cannot_even_be_made_is_named(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(batch_size: int, *_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setattr(candidates, "random_images", refuse)
    out = tool("benchmark.py", SEGMENTER, "--rounds", "1")
    assert "batch 1\ndid not run: DefaultCPUAllocator: can't allocate memory" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((SEGMENTER, SEGMENTER), "expected configs of different names"),
        ((SEGMENTER, "--baselines", "timm"), "an encoder that timm knows by its name"),
        ((SEGMENTER, "--json", "nowhere/a.json"), "--json expects a file in a folder that exists"),
        ((SEGMENTER, "--img-size", "60", "60"), "multiples of the patch size 8, got 60x60"),
        ((SEGMENTER, "--freeze"), "expected --compile with --freeze"),
        ((SEGMENTER, "--rounds", "0"), "expected rounds >= 1"),
        ((SEGMENTER, "--formats", "onnx"), "--formats expects eager"),
        (
            (SEGMENTER, "--formats", "eager", "onnx", "--part", "model"),
            "expected encoders in fp32 on the CPU, got --part model",
        ),
        ((SEGMENTER, "--batch-sizes", "1", "0"), "expected batch sizes >= 1, got [1, 0]"),
        ((SEGMENTER, "--json", "."), "--json expects a file in a folder that exists, got ."),
        ((NO_MODEL,), "expected model.backbone of type cropr_mm.CroprViT, got None"),
        ((SEGMENTER, "--against", "dense"), "--against expects rows (cropr_tiny_segmenter_"),
        (
            (CAMVID, "--part", "model", "--img-size", "240", "304"),
            "images of 240x304 pixels, but the config's data_preprocessor makes them 240x320",
        ),
        ((SEGMENTER, "--device", "gpu"), "expected a device that is there (cpu"),
        ((SEGMENTER, CAMVID, "--checkpoint", "a.pth"), "expected one config for a checkpoint"),
        ((SEGMENTER, "--checkpoint", "a.pth"), "no checkpoint file at a.pth"),
        (("missing.py",), "expected a config file, found none at missing.py"),
    ],
)
def test_bad_input_ends_in_one_line(tool: Tool, args: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as end:
        tool("benchmark.py", *args)
    assert str(end.value).startswith("error: ")
    assert message in str(end.value)
    assert len(str(end.value).splitlines()) == 1
