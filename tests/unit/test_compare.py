"""Timing several encoders or models in turn: what is timed, and what the tables say."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from PIL import Image

from cropr_mm.engine.config import load_config
from cropr_mm.profiling import speed_plots
from cropr_mm.profiling.candidates import make_entries, native_size, random_batch, with_image_size
from cropr_mm.profiling.compare import encoder_entry, time_side_by_side
from cropr_mm.profiling.matmuls import Gemm, is_linear
from cropr_mm.profiling.op_profile import operator_shares
from cropr_mm.profiling.packed_weights import packed_matmuls
from cropr_mm.profiling.run_mode import Mode, available_devices
from cropr_mm.profiling.speed_plots import draw_groups, draw_sizes

DEMO = Path(__file__).parents[2] / "configs/demo"
CPU = Mode()


def tiny(**changes: Any) -> Config:
    """A classifier of 16 patches that keeps 4."""
    backbone = dict(
        type="cropr_mm.CroprViT",
        arch="vit_tiny_patch16_224",
        img_size=64,
        out_type="cls_token",
        reducer=dict(type="cropr_mm.Cropr", num_classes=3),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 4}),
    )
    head = dict(type="LinearClsHead", num_classes=3, in_channels=192)
    model = dict(type="ImageClassifier", backbone=backbone | changes, head=head)
    return Config(dict(model=model, default_scope="mmpretrain"))


def test_entries_are_in_order_with_the_dense_one_first() -> None:
    baselines = ["random", "timm", "published", "dense"]
    entries = make_entries({"mine": tiny()}, CPU, baselines=baselines, compile=True)
    names = ["dense", "mine", "random", "timm", "published"]
    assert list(entries) == [name + form for name in names for form in ("", ", compiled")]


def test_each_entry_is_measured_against_the_floor_of_its_own_tokens() -> None:
    entries = make_entries(
        {"mine": tiny()}, CPU, baselines=["dense", "timm", "random", "published"]
    )
    last = {name: entry.encoder.tokens_per_block()[-1] for name, entry in entries.items()}
    assert last == dict(dense=17, timm=17, mine=5, random=5, published=5)


def test_configs_are_stripped_for_inference_but_the_published_step_keeps_its_queries() -> None:
    entries = make_entries({"mine": tiny()}, CPU, baselines=["published"])
    names = entries["mine"].encoder.state_dict()
    assert not any("queries" in name or "auxiliary" in name for name in names)
    assert entries["published"].call.queries["0"].shape == (1, 1, 192)


def test_a_run_says_times_speed_ups_and_floors(tmp_path: Path) -> None:
    entries = make_entries({"mine": tiny()}, CPU, baselines=["dense", "random"])
    images = torch.randn(2, 3, 64, 64)
    result = time_side_by_side(entries, images, rounds=5, warmup=1)

    assert set(result.latencies.times) == {"dense", "mine", "random"}
    dense, mine, random = (result.floors[name].matmuls for name in ("dense", "mine", "random"))
    assert sum(dense.values()) == sum(mine.values()) - 1  # its scorer
    scores = Gemm(2 * 17, 192, 1, None, torch.float32)
    assert {p: n for p, n in mine.items() if p != scores} == random, "it has no scores"
    record = result.as_dict()
    for name, entry in record["functions"].items():
        assert entry["times_floor"] == pytest.approx(entry["median_ms"] / entry["floor"]["ms"])
        assert len(entry["times_ms"]) == 5, name
        low, high = entry["times_floor_interval"]
        assert low <= entry["times_floor"] <= high
    assert record["functions"]["dense"]["speedup"]["value"] == 1.0
    assert record["images_per_call"] == 2
    head, *rows = result.table().splitlines()
    assert head.split("  ")[-1].strip() == "x of encoder floor"
    assert [row.split()[0] for row in rows] == ["dense", "mine", "random"]
    value, low, high = result.times_floor("dense")
    assert rows[0].endswith(f"  {value:.2f} ({low:.2f}-{high:.2f})")
    draw_groups({"batch 2": record}, tmp_path / "speed.png")
    pixels = np.array(Image.open(tmp_path / "speed.png").convert("RGB")).reshape(-1, 3)
    for color in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C)):
        assert (pixels == color).all(axis=1).sum() > 20, "one color a model"


class Attention(torch.nn.Module):
    """The smallest encoder there is, of images (B, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.layer(images.to(self.layer.weight.dtype))
        return F.scaled_dot_product_attention(x, x, x)


def test_precisions_and_kernels_take_turns_in_one_run() -> None:
    entries = {}
    for dtype in ("fp32", "amp", "bf16"):
        mode = Mode(dtype)
        module = mode.place(Attention())
        entries[dtype] = encoder_entry(module, module, mode)
    result = time_side_by_side(entries, torch.randn(2, 3, 8, 8), rounds=2)
    assert list(result.latencies.times) == ["fp32", "amp", "bf16"]
    full, half = Gemm(48, 8, 8, None, torch.float32), Gemm(48, 8, 8, None, torch.bfloat16)
    layers = [[p for p in floor.matmuls if is_linear(p)] for floor in result.floors.values()]
    assert layers == [[full], [half], [half]]


@pytest.mark.skipif(not hasattr(torch.nn, "attention"), reason="torch 2.1 cannot restrict kernels")
@pytest.mark.parametrize("compile", [False, True])
def test_each_row_runs_its_own_kernel(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", lambda function, mode, **options: quick(function))
    images = torch.randn(2, 3, 8, 8)
    entries = {}
    for name in ("flash", "math"):  # models of one class, of which torch shares compiled forms
        module = Attention().eval()
        entries[name] = encoder_entry(module, module, Mode(sdpa=name), compile)
    result = time_side_by_side(entries, images, rounds=1)
    assert [
        [p.kernel for p in floor.matmuls if not is_linear(p)] for floor in result.floors.values()
    ] == [["flash"], ["math"]]
    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    ran = [fused in operator_shares(partial(entry.run, images)) for entry in entries.values()]
    assert ran == [True, False]


def test_what_the_machine_is_too_small_for_is_left_out_and_named() -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError(
            "backend='x' raised:\nCUDA out of memory. Tried to allocate 64 GiB\nmore"
        )

    def fail(_: Any) -> None:
        raise RuntimeError("a defect")

    encoder = Attention().eval()
    small, images = encoder_entry(encoder, encoder, CPU), torch.randn(1, 3, 8, 8)
    large, wrong = replace(small, call=refuse), replace(small, call=fail)
    result = time_side_by_side({"large": large, "small": small}, images, rounds=1)
    reason = "CUDA out of memory. Tried to allocate 64 GiB"
    record = result.as_dict()
    assert (record["errors"], record["base"]) == ({"large": reason}, "small")
    assert list(record["functions"]) == ["small"]
    assert result.table().splitlines()[-1] == f"large did not run: {reason}"
    with pytest.raises(RuntimeError, match="out of memory"):
        time_side_by_side({"large": large}, images)
    with pytest.raises(RuntimeError, match="a defect"):
        time_side_by_side({"small": small, "wrong": wrong}, images)


def test_entries_of_two_devices_are_refused() -> None:
    encoder = Attention().eval()
    here = encoder_entry(encoder, encoder, CPU)
    there = replace(here, mode=Mode(device="meta"))
    with pytest.raises(ValueError, match=r"one device, got \['cpu', 'meta'\]"):
        time_side_by_side({"here": here, "there": there}, torch.randn(1, 3, 8, 8))


def test_frozen_rows_are_also_compared_with_packed_products() -> None:
    entries = make_entries({"mine": tiny()}, CPU, baselines=["dense"])
    if not packed_matmuls({Gemm(8, 8, 8, None, torch.float32): 1}):
        pytest.skip("this CPU packs no weights in float32")
    entries["frozen"] = replace(entries["mine"], frozen=True)
    result = time_side_by_side(entries, torch.randn(2, 3, 64, 64), rounds=5, warmup=0)
    plain, packed = result.floors["frozen"].matmuls, result.packed_floors["frozen"].matmuls
    assert list(result.packed_floors) == ["frozen"]
    assert {p for p in packed if is_linear(p) and not p.packed} == {
        Gemm(2 * 17, 192, 1, None, torch.float32)
    }
    assert [p.macs for p in packed] == [p.macs for p in plain]
    functions = result.as_dict()["functions"]
    frozen = functions["frozen"]
    multiple = frozen["median_ms"] / frozen["packed_floor"]["ms"]
    assert frozen["times_packed_floor"] == pytest.approx(multiple)
    assert "packed_floor" not in functions["mine"]
    head, *rows = result.table().splitlines()
    assert head.endswith("x of packed floor")
    assert [row.endswith("  -") for row in rows] == [True, True, False]
    assert f"{multiple:.2f} (" in rows[2]


@pytest.mark.parametrize(
    "name",
    ["cropr_tiny_segmenter_digits.py", "cropr_tiny_vit_digits_cls.py"],
)
def test_whole_models_run_on_random_images_with_each_encoder(name: str) -> None:
    cfg = load_config(str(DEMO / name))
    size = native_size(cfg)
    entries = make_entries({"mine": cfg}, CPU, part="model", baselines=["dense"])
    batch = random_batch(cfg, 2, size)
    with CPU.running():
        outputs = {name: entry.call(batch) for name, entry in entries.items()}
    assert [len(output) for output in outputs.values()] == [2, 2]
    assert entries["mine"].call.__self__.backbone is entries["mine"].encoder
    assert entries["dense"].call.__self__.backbone is entries["dense"].encoder
    head = next(key for key in ("decode_head", "head") if key in cfg.model)
    assert getattr(entries["mine"].call.__self__, head) is getattr(
        entries["dense"].call.__self__, head
    )


def test_another_image_size_is_that_of_the_encoder() -> None:
    cfg = tiny()
    assert native_size(cfg) == (64, 64)
    assert native_size(with_image_size(cfg, (32, 96))) == (32, 96)
    assert native_size(cfg) == (64, 64)
    cfg.model.backbone.pop("img_size")
    assert native_size(cfg) == (224, 224)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(baselines=["tome"]), "unknown baseline tome; known: dense, random, timm, published"),
        (dict(part="model", baselines=["timm"]), r"of ours \(dense, random\).*\['timm'\]"),
        (dict(part="model", mode=Mode("bf16")), "run in fp32 or amp, got bf16"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    mode = options.pop("mode", CPU)
    with pytest.raises(ValueError, match=message):
        make_entries({"mine": tiny()}, mode, **options)


def test_a_detector_in_mixed_precision_is_refused_on_a_cpu() -> None:
    cfg = tiny()
    cfg.model.rpn_head = dict(type="RPNHead")
    with pytest.raises(ValueError, match=r"mine is a detector, .* CPU .* fp32, got amp"):
        make_entries({"mine": cfg}, Mode("amp"), part="model")


def test_another_backbone_is_refused() -> None:
    cfg = Config(dict(model=dict(backbone=dict(type="mmdet.ResNet"))))
    with pytest.raises(ValueError, match=r"expected .* cropr_mm\.CroprViT, got mmdet\.ResNet"):
        make_entries({"mine": cfg}, CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(dtype="int8"), "expected dtype fp32, bf16, fp16 or amp, got int8"),
        (dict(sdpa="fast"), "expected sdpa auto, flash or math, got fast"),
        (dict(device="gpu"), r"a device that is there \(cpu.*\), got gpu"),
        *(
            pytest.param(
                dict(device=name),
                rf"a device that is there \(cpu.*\), got {name}",
                marks=pytest.mark.skipif(name in available_devices(), reason="it is there"),
            )
            for name in ("cuda", "cuda:7", "xpu", "mps")
        ),
    ],
)
def test_a_mode_that_cannot_be_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mode(**options)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_is_that_of_weights_and_images(name: str) -> None:
    mode = Mode(name)
    layer = mode.place(torch.nn.Linear(2, 2).train())
    assert not layer.training
    assert layer.weight.dtype == mode.place(torch.zeros(1)).dtype == mode.torch_dtype
    assert mode.torch_dtype in (torch.bfloat16, torch.float16)


def test_amp_keeps_weights_and_casts_products() -> None:
    mode = Mode("amp")
    layer = mode.place(torch.nn.Linear(2, 2))
    with mode.running():
        assert not torch.is_grad_enabled()
        assert layer(torch.zeros(1, 2)).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32


@pytest.mark.skipif(not hasattr(torch.nn, "attention"), reason="torch 2.1 cannot restrict kernels")
@pytest.mark.parametrize(("name", "flash"), [("math", False), ("flash", True)])
def test_only_the_named_kernel_of_attention_is_allowed(name: str, flash: bool) -> None:
    with Mode(sdpa=name).running():
        assert torch.backends.cuda.flash_sdp_enabled() is flash
        assert torch.backends.cuda.math_sdp_enabled() is not flash
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.skipif(hasattr(torch.nn, "attention"), reason="this torch can restrict kernels")
def test_restricting_kernels_needs_a_newer_torch() -> None:
    with pytest.raises(ValueError, match=r"sdpa=math needs torch 2\.3"):
        Mode(sdpa="math")


def curve_group(side: int, ms: float, macs: int, idle: bool = True) -> dict[str, Any]:
    """Record of a dense and a pruned encoder; the pruned one takes and needs half."""
    functions = {}
    for name, part in (("dense", 2), (f"R={side}", 1)):
        memory = {"weights_deployed": 2**30, "weights": 2**31, "test": 0, "training": part * 2**30}
        functions[name] = {
            "settings": {"img_size": [side, side]},
            "tokens_per_block": [16, 8 * part],
            **dict.fromkeys(("median_ms", "p10_ms", "p90_ms"), part * ms),
            "floor": {"macs_linear": part * macs, "macs_attention": 0},
            "memory_estimated": memory,
            "memory_measured": memory,
        }
    return {"functions": functions, "idle": idle}


def test_lines_over_image_size_are_counted_and_points_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    real = speed_plots.Figure
    monkeypatch.setattr(
        speed_plots, "Figure", lambda **options: (figures.append(real(**options)), figures[-1])[1]
    )
    groups = {
        "vit, 64 px, bf16": curve_group(64, ms=20, macs=400, idle=False),
        "vit, 32 px, bf16": curve_group(32, ms=10, macs=100),
        "vit, 32 px, fp32": curve_group(32, ms=30, macs=100),
    }
    draw_sizes(groups, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    assert len(figure.axes) == 2 * 3
    time, test, training = figure.axes[:3]
    assert time.get_title(loc="left") == "vit, bf16: NOT IDLE"
    assert [text.get_text() for text in time.get_legend().get_texts()] == ["dense", "50 % pruned"]
    points, lines = [], {}
    for line in time.lines:
        if line.get_label() in ("dense", "50 % pruned"):
            lines[line.get_label()] = line.get_xydata().tolist()
        elif line.get_marker() == "o":
            points.append(line.get_xydata().tolist())
    assert points == [[[32, 20], [64, 40]], [[32, 10], [64, 20]]]
    assert lines == {"dense": [[32, 20], [64, 80]], "50 % pruned": [[32, 10], [64, 40]]}
    needs = [line.get_xydata().tolist() for line in training.lines]
    assert needs == [[[32, 4], [64, 4]]] * 2 + [[[32, 3], [64, 3]]] * 2
    assert {line.get_linestyle() for line in test.lines} == {"-", "None"}
    del groups["vit, 32 px, fp32"]["functions"]["R=32"]
    with pytest.raises(ValueError, match=r"same number of encoders, got \[1, 2\]"):
        draw_sizes(groups, tmp_path / "b.png")
    with pytest.raises(ValueError, match="got none to draw"):
        draw_sizes({}, tmp_path / "b.png")
