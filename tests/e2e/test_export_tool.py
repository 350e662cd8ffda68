"""Exported files compute what PyTorch computes, and a file that does not is never called done."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from tiny_tasks import write_config
from torch import Tensor

import cropr_mm.export.model as export_model
import cropr_mm.reducers.base as reducers
from cropr_mm.build import build_model
from cropr_mm.engine.config import load_config
from cropr_mm.export import load
from cropr_mm.export.runtime import ExportError, Input
from cropr_mm.export.runtime.card import FORMATS

pytest.importorskip("onnxscript", reason="needs cropr_mm[export]")
pytest.importorskip("onnxruntime", reason="needs cropr_mm[export]")
pytest.importorskip("openvino", reason="needs cropr_mm[export]")

ROOT = Path(__file__).parents[2]
CROPR = dict(type="cropr_mm.Cropr", num_classes=2, num_queries=3)
Tool = Callable[..., str]


def trained(root: Path, folder: Path, task: str, **changes: Any) -> tuple[Path, Path]:
    """Config and checkpoint of a tiny model whose blocks matter."""
    changes = {"model__backbone__reducer": CROPR, **changes}
    config = write_config(root, task, **changes)
    model = build_model(Config.fromfile(config))
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(std=0.3)
    file = folder / f"{task}.pth"
    meta = dict(dataset_meta=dict(classes=("box", "disc")))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), file)
    return config, file


@pytest.fixture(scope="module")
def models(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint by task."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    return {task: trained(root, folder, task) for task in ("det", "seg", "cls")}


def photo(file: Path, size: tuple[int, int] = (64, 64), **options: Any) -> Path:
    """A file with a smooth random picture."""
    noise = np.random.default_rng(3).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, **options)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Folder with a JPEG, one that its EXIF data turn, and a picture with an alpha channel."""
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(folder / "plain.jpg")
    photo(folder / "turned.jpg", exif=exif)
    with Image.open(folder / "plain.jpg") as image:
        image.convert("RGBA").save(folder / "alpha.png")
    return folder


def test_a_classifier_runs_where_only_its_runtime_is(
    models: dict[str, tuple[Path, Path]], tool: Tool, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "cls.onnx"
    arguments = ("--format", "onnx", "--dynamic-batch", "--images", photos)
    text = tool("export.py", *models["cls"], out, *arguments)
    assert "kept sets   15 of 15 equal, 0 ties" in text  # 3 steps, 2 random images, 3 photos
    card = json.loads(Path(f"{out}.json").read_text())
    assert card["classes"] == ["box", "disc"]
    assert card["about"]["tokens_per_block"] == [65, 48, 32, 16, 65]
    assert card["about"]["verification"]["faults"] == []

    model = load(out)
    files = sorted(photos.iterdir())
    together, alone = model(*files), [model(file)[0] for file in files]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a["scores"], b["scores"], atol=1e-5)
        assert a["scores"].sum() == pytest.approx(1, abs=1e-5)

    python = bare_environment(tmp_path / "bare")
    program = [python, ROOT / "tools/infer.py", out, *files, "--out", tmp_path / "drawn"]
    done = subprocess.run(
        [*map(str, program)], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done.stderr
    assert len([*(tmp_path / "drawn").glob("*.png")]) == len(files)
    best = card["classes"][int(alone[0]["label"])]
    assert f"{best} {alone[0]['scores'].max():.3f}" in done.stdout.splitlines()[0]


def bare_environment(folder: Path) -> Path:
    """A virtual environment with numpy, pillow, onnxruntime and this package, and nothing else."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for package in ("numpy", "PIL", "onnxruntime"):
        source = Path(str(sys.modules[package].__file__)).parent
        (site / package).symlink_to(source)
        for libraries in source.parent.glob(f"{'pillow' if package == 'PIL' else package}.libs"):
            (site / libraries.name).symlink_to(libraries)
    shutil.copytree(ROOT / "cropr_mm", site / "cropr_mm")
    python = folder / "bin/python"
    check = "import cropr_mm.export, importlib.util as u; assert not u.find_spec('torch')"
    subprocess.run([str(python), "-c", check], check=True)
    return python


def wheel_environment(folder: Path) -> Path:
    """A virtual environment made by uv: numpy, pillow, onnxruntime, and our wheel without more."""
    uv = str(Path(sys.executable).parent / "uv")
    tree, python = folder / "tree", folder / "env/bin/python"
    tree.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "cropr_mm", tree / "cropr_mm")
    versions = [f"{name}=={version(name)}" for name in ("numpy", "pillow", "onnxruntime")]
    install = ("pip", "install", "-q", "-p", python)

    def run(*arguments: object) -> None:
        done = subprocess.run([uv, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run("build", "--wheel", "--no-build-isolation", "-p", sys.executable, "-o", folder, tree)
    run("venv", "-q", "-p", sys.executable, folder / "env")
    run(*install, *versions)
    run(*install, "--no-deps", *folder.glob("*.whl"))
    return python


def test_a_segmenter_labels_every_pixel_of_the_image(
    models: dict[str, tuple[Path, Path]], tool: Tool, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "seg.xml"
    text = tool("export.py", *models["seg"], out, "--format", "openvino", "--images", photos)
    assert "results     0.000% differ" in text
    (result,) = load(out)(photos / "turned.jpg")
    assert result["labels"].shape == (64, 64)
    assert set(np.unique(result["labels"])) <= {0, 1}
    with pytest.raises(ExportError, match=r"64x64 pixels .* got 32x64"):
        load(out)(np.zeros((32, 64, 3), np.uint8))


def test_an_encoder_for_another_size(
    models: dict[str, tuple[Path, Path]], tool: Tool, tmp_path: Path
) -> None:
    out = tmp_path / "encoder.pt2"
    arguments = ("--format", "torch", "--part", "encoder", "--img-size", 64, 96, "--batch", 2)
    text = tool("export.py", *models["det"], out, *arguments)
    assert "kept sets   6 of 6 equal" in text
    (first, second, third) = load(out)(*[np.full((32, 48, 3), i, np.uint8) for i in (0, 99, 200)])
    assert first["output_0"].shape == (16, 8, 12)
    assert not np.allclose(first["output_0"], second["output_0"])
    assert not np.allclose(second["output_0"], third["output_0"])


@pytest.mark.slow
@pytest.mark.parametrize(("form", "ending"), [("onnx", "onnx"), ("openvino", "xml")])
def test_a_detector_gives_boxes_and_masks(
    form: str, ending: str, tool: Tool, tmp_path: Path
) -> None:
    config = ROOT / "configs/demo/cropr_tiny_cascade_digits.py"
    model = build_model(load_config(str(config)))
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(std=0.08)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "det.pth")
    out, file = tmp_path / f"det.{ending}", photo(tmp_path / "wide.png", (160, 100))
    check = ("--check", "tensorrt") if form == "onnx" else ()
    text = tool("export.py", config, tmp_path / "det.pth", out, "--format", form, *check)
    assert "kept sets   9 of 9 equal" in text
    assert form != "onnx" or " 0 that TensorRT does not take" in text
    assert "detections" in text
    (result,) = load(out)(file)
    count = len(result["scores"])
    assert count > 0
    assert result["masks"].shape == (count, 100, 160)
    assert result["boxes"].max() <= 160
    infer = ROOT / "tools/infer.py", out, file, "--out", tmp_path / "drawn"
    if form == "onnx":
        python = wheel_environment(tmp_path / "bare")
        found = "import importlib.util as u; print(*map(u.find_spec, ('torch', 'mmengine', 'cv2')))"
        absent = subprocess.run([str(python), "-c", found], capture_output=True, text=True)
        assert absent.stdout.split() == ["None"] * 3
        subprocess.run([str(python), *map(str, infer)], check=True, env={"PATH": ""})
    else:
        tool("infer.py", *infer[1:])
    assert (tmp_path / "drawn/wide.png").is_file()


def test_metrics_and_speed_are_in_the_card(
    models: dict[str, tuple[Path, Path]], tool: Tool, tmp_path: Path
) -> None:
    out = tmp_path / "seg.onnx"
    arguments = ("--format", "onnx", "--evaluate", 3, "--rounds", 2, "--check", "tensorrt")
    text = tool("export.py", *models["seg"], out, *arguments)
    assert "metrics     on 3 test images" in text
    assert "over dense in this format" in text
    assert "0 that TensorRT does not take" in text
    about = json.loads(Path(f"{out}.json").read_text())["about"]
    metrics = about["verification"]["metrics"]
    assert metrics["images"] == 3
    assert 0 < metrics["pytorch"]["mIoU"] == metrics["exported"]["mIoU"] < 100
    assert len(about["speed"]["functions"]["pruned"]["times_ms"]) == 2
    assert about["ran"]["precision"] == "float32"


def test_encoders_in_several_formats_are_timed_side_by_side(
    models: dict[str, tuple[Path, Path]], tool: Tool, tmp_path: Path
) -> None:
    config, checkpoint = models["seg"]
    file = tmp_path / "speed.json"
    arguments = ("--baselines", "dense", "--checkpoint", checkpoint, "--rounds", 2, "--json", file)
    text = tool("benchmark.py", config, "--formats", "eager", "onnx", *arguments)
    functions = json.loads(file.read_text())["batches"]["1"]["functions"]
    name = config.stem
    assert list(functions) == ["dense", "dense, onnx", name, f"{name}, onnx"]
    times = {row: function["median_ms"] for row, function in functions.items()}
    for row, function in functions.items():
        base = "dense, onnx" if row.endswith("onnx") else "dense"
        assert function["speedup_in_form"]["value"] == pytest.approx(times[base] / times[row])
        assert (function["bytes_on_disk"] or 0) > (10_000 if row.endswith("onnx") else -1)
        assert function["difference_from_eager"] < 1e-4
    assert "MB on disk" in text


@pytest.mark.parametrize(
    ("form", "arguments", "dtype"),
    [
        ("onnx", ("--dtype", "fp16"), "fp16"),
        pytest.param("openvino", ("--dtype", "fp16"), "fp16", marks=pytest.mark.slow),
        pytest.param("torch", ("--dtype", "bf16"), "bf16", marks=pytest.mark.slow),
        ("onnx", ("--calibrate", "PHOTOS"), "int8"),
    ],
)
def test_lower_precision(
    form: str,
    arguments: tuple[object, ...],
    dtype: str,
    models: dict[str, tuple[Path, Path]],
    tool: Tool,
    photos: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / f"cls{FORMATS[form]}"
    arguments = tuple(photos if argument == "PHOTOS" else argument for argument in arguments)
    limits = ("--min-agreement", 0.5, "--max-rms", 1)  # a model of 16 channels
    text = tool("export.py", *models["cls"], out, "--format", form, *arguments, *limits)
    assert "of the tokens the same" in text
    card = json.loads(Path(f"{out}.json").read_text())
    assert card["dtype"] == dtype
    found = card["about"]["verification"]
    assert 0 < found["rms"] < 0.2
    assert found["kept_shared"] / found["kept_total"] > 0.8
    assert load(out)(photos / "plain.jpg")[0]["scores"].shape == (2,)


def other_tokens(scores: Tensor, num_keep: int) -> tuple[Tensor, Tensor]:
    """Keep the lowest scores."""
    return select(-scores, num_keep)


select = reducers.select_topk


@pytest.mark.parametrize("broken", ["tokens", "weights", "mean"])
def test_a_wrong_file_is_called_failed(
    broken: str,
    models: dict[str, tuple[Path, Path]],
    tool: Tool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_pair, make_input = export_model.write_pair, export_model.make_input

    def write_wrong(graph: Any, *args: Any, **options: Any) -> None:
        weight = graph.backbone.blocks[-1].mlp.fc2.weight
        right = weight.data.clone()
        with monkeypatch.context() as patch:
            if broken == "tokens":
                patch.setattr(reducers, "select_topk", other_tokens)
            if broken == "weights":
                weight.data *= 1.1
            write_pair(graph, *args, **options)
        weight.data.copy_(right)

    def make_wrong(*args: Any) -> Input:
        right = make_input(*args)
        if broken == "mean":
            return Input(**{**vars(right), "mean": right.std, "std": right.mean})
        return right

    monkeypatch.setattr(export_model, "write_pair", write_wrong)
    monkeypatch.setattr(export_model, "make_input", make_wrong)
    out = tmp_path / "encoder.pt2"
    with pytest.raises(SystemExit) as stop:
        tool("export.py", *models["det"], out, "--format", "torch", "--part", "encoder")
    assert stop.value.code == 1
    assert {file.name for file in tmp_path.iterdir()} == {
        "encoder.pt2.failed",
        "encoder.pt2.failed.json",
    }
    card = json.loads((tmp_path / "encoder.pt2.failed.json").read_text())
    faults = " ".join(card["about"]["verification"]["faults"])
    said = {"tokens": "other tokens", "weights": "outputs of the file differ"}
    assert said.get(broken, "prepared images differ") in faults
    with pytest.raises(ExportError, match="did not pass its verification"):
        load(f"{out}.failed")


def test_bad_input_is_named_in_one_line(
    models: dict[str, tuple[Path, Path]], root: Path, tool: Tool, tmp_path: Path
) -> None:
    good, out = models["det"], tmp_path / "encoder.pt2"
    encoder = ("--format", "torch", "--part", "encoder")
    (tmp_path / "empty").mkdir()
    random = trained(
        root,
        tmp_path,
        "det",
        model__backbone__reducer=dict(type="cropr_mm.RandomPruner", _delete_=True),
    )
    parts = [f"model__backbone__{part}" for part in ("reducer", "schedule", "fusion")]
    unpruned = trained(root, tmp_path, "seg", **dict.fromkeys(parts), custom_hooks=[])
    merger = trained(
        root,
        tmp_path,
        "cls",
        model__backbone__reducer=dict(type="cropr_mm.ToMe"),
        model__backbone__schedule=dict(rate=8),
        model__backbone__fusion=None,
    )
    flips = dict(
        model__backbone__reducer=CROPR,
        test_dataloader__dataset__pipeline=[dict(type="RandomFlip")],
    )
    turned = write_config(root, "det", **flips)
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((*good, tmp_path / "a.onnx", *encoder), r"ends in \.pt2 for torch, got .*a\.onnx"),
        (
            (*good, out.with_suffix(".onnx"), "--format", "onnx", "--opset", 11),
            "18 or later, got 11",
        ),
        ((*good, out, *encoder, "--images", tmp_path / "empty"), "found none in"),
        ((*good, out, *encoder, "--img-size", 60, 64), "multiples of the patch size 8, got 60x64"),
        ((*good, out, *encoder, "--progress", 2), r"in \[0, 1\], got 2"),
        (
            (*unpruned, out, *encoder, "--progress", 0.5),
            "--progress expects a model with a backbone",
        ),
        ((*good, out, *encoder, "--progress", 1, "--dense"), "--dense or --progress, got both"),
        ((*good, out, *encoder, "--evaluate", 2), "an encoder alone has no metric"),
        ((*good, out, *encoder, "--check", "tensorrt"), "expected --format onnx, got torch"),
        ((*good, out, *encoder, "--calibrate", tmp_path), "onnx and openvino, got torch"),
        ((*good, out, "--format", "torch"), "got FCOS: --part encoder"),
        ((good[0], models["cls"][1], out, *encoder), "not a checkpoint of this config"),
        ((*random, out, *encoder), "RandomPruner draws random numbers"),
        ((*merger, out, *encoder), "ToMe makes tokens that belong to no cell"),
        ((turned, good[1], out, *encoder), "RandomFlip"),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit, match=message) as stop:
            tool("export.py", *arguments)
        assert str(stop.value.code).startswith("error: ")
    assert not [*tmp_path.glob("encoder*")]


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"file of tools/export.py, found none at .*model\.onnx$"):
        load(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ExportError, match="found no card at"):
        load(tmp_path / "model.onnx")
    (tmp_path / "model.onnx.json").write_text("{}")
    with pytest.raises(ExportError, match="expected the card"):
        load(tmp_path / "model.onnx")
