"""Matmuls are recorded as they are counted, and floors add up from one measurement per shape."""

import time
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.profiling import floor, packed_weights
from cropr_mm.profiling.encoder_cost import encoder_cost
from cropr_mm.profiling.floor import Floor, measure_with_floors
from cropr_mm.profiling.matmuls import Gemm, Sdpa, macs, record_matmuls
from cropr_mm.profiling.meta import meta_twin
from cropr_mm.profiling.packed_weights import packed_matmuls

F32 = torch.float32
PLAIN = dict(embed_dim=32, depth=5, num_heads=2, patch_size=8, img_size=64)
WINDOWED = dict(
    arch=PLAIN | dict(cls_token=False, rope="eva"), window_size=4, global_block_indexes=[2]
)


def pruned(reducer: str, num_keep: dict[int, int], **arguments: Any) -> dict[str, Any]:
    return dict(
        reducer=dict(type=f"cropr_mm.{reducer}", **arguments),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep=num_keep),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )


ENCODERS = {
    "plain": dict(arch=PLAIN),
    "eva": dict(arch="eva02_tiny_patch14_224", img_size=112),
    "windows": WINDOWED,
    "relative positions": WINDOWED
    | dict(arch=PLAIN | dict(cls_token=False), use_rel_pos=True, window_rope="slot"),
    "cropr": WINDOWED | pruned("Cropr", {1: 32, 2: 16}),
    "attention": dict(arch=PLAIN)
    | pruned("AttnTopK", {0: 32, 2: 16}, signal="column_mean", site="between"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_recorded_products_have_the_counted_macs(name: str) -> None:
    with torch.device("meta"):
        encoder = CroprViT(**ENCODERS[name]).eval()
    cost = encoder_cost(encoder).macs
    images = torch.empty(3, 3, *encoder.img_size, device="meta")
    with torch.no_grad():
        products = record_matmuls(lambda: encoder(images))
    assert macs(products, linear=True) == 3 * cost.linear
    assert macs(products, linear=False) == 3 * cost.attention


def test_shapes_are_those_of_the_calls() -> None:
    encoder = CroprViT(**ENCODERS["cropr"]).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        products = record_matmuls(lambda: encoder(torch.randn(2, 3, 64, 64)))
    half = torch.bfloat16
    assert products[Gemm(2 * 64, 3 * 8**2, 32, None, half)] == 1, "patches"
    assert products[Gemm(2 * 64, 32, 96, None, half)] == 3, "blocks 0, 1 and the last"
    assert products[Gemm(2 * 64, 32, 1, None, F32)] == 1, "scores keep their precision"
    assert products[Sdpa(2 * 4, 2, 16, 16, 16, False, half)] == 3, "four windows of each image"
    assert products[Sdpa(2, 2, 32, 32, 16, False, half)] == 1, "the global block"
    assert products[Sdpa(2 * 1, 2, 16, 16, 16, False, half)] == 1, "the survivors' window"


def test_a_layer_and_a_batched_product_by_hand() -> None:
    layer = nn.Linear(4, 6)

    def run() -> None:
        layer(torch.randn(2, 5, 4))
        torch.randn(2, 3, 5, 4) @ torch.randn(2, 3, 4, 7)
        torch.randn(5, 4) @ torch.randn(4)

    assert record_matmuls(run) == {
        Gemm(10, 4, 6, None, F32): 1,
        Gemm(5, 4, 7, 6, F32): 1,
        Gemm(5, 4, 1, None, F32): 1,
    }
    assert Gemm(5, 4, 7, 6, F32).macs == 6 * 5 * 4 * 7
    assert Sdpa(2, 3, 5, 7, 4, False, F32).macs == 2 * (2 * 3) * 5 * 7 * 4


def test_a_floor_is_the_sum_over_calls() -> None:
    linear, vector = Gemm(10, 4, 6, None, F32), Gemm(10, 4, 1, None, F32)
    attention, rows = Sdpa(1, 1, 8, 8, 4, False, F32), Gemm(8, 4, 8, 2, F32)
    products = {linear: 3, vector: 1, attention: 2, rows: 1}
    times = {linear: (2.0,), vector: (0.5,), attention: (10.0,), rows: (1.0,)}
    result = Floor(products, times, load=0.0)
    assert (result.linear_ms, result.attention_ms, result.ms) == (6.5, 21.0, 27.5)
    record = result.as_dict()
    assert record["macs_linear"] == 3 * 240 + 40
    assert record["linear_gmacs_per_s"] == pytest.approx((3 * 240 + 40) / 6.5e-3 / 1e9)
    assert [p["calls"] for p in record["products"]] == [3, 1, 2, 1]


def test_a_floor_is_the_sum_of_medians_and_no_interruption_is_in_it() -> None:
    shapes = [Gemm(rows, 4, 6, None, F32) for rows in range(1, 6)]
    # Each round is interrupted once, in another product: the median of sums would be 5 + 9.
    times = {p: tuple(10.0 if r == i else 1.0 for r in range(5)) for i, p in enumerate(shapes)}
    assert Floor(dict.fromkeys(shapes, 1), times, load=0.0).ms == 5


def test_multiples_of_a_floor_have_an_interval_over_the_same_rounds() -> None:
    a, b = Gemm(8, 4, 6, None, F32), Gemm(4, 4, 6, None, F32)
    slow = (1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 1.0)  # the clock of each round, shared by all
    floor = Floor({a: 2, b: 1}, {a: slow, b: tuple(3 * t for t in slow)}, load=0.0)
    assert floor.multiple([10 * t for t in slow]) == (2.0, 2.0, 2.0)
    g = np.random.default_rng(0)
    noisy = Floor({a: 2}, {a: tuple(g.normal(3, 0.3, 50))}, load=0.0)
    value, low, high = noisy.multiple(g.normal(9, 0.9, 50))
    assert 1.3 < low < 1.5 < high < 1.7
    assert low <= value <= high


def test_each_shape_takes_turns_with_the_functions_and_repeats_are_divided_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared, own = Gemm(8, 4, 6, None, F32), Gemm(4, 4, 6, None, F32)
    order: list[str] = []
    clock = [0.0]

    def spend(name: str, milliseconds: float) -> None:
        order.append(name)
        clock[0] += milliseconds / 1e3

    def linear(x: torch.Tensor, weight: torch.Tensor) -> None:
        spend(*{8: ("shared", 0.8), 4: ("own", 4.0)}[len(x)])

    monkeypatch.setattr(floor.F, "linear", linear)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    times, floors = measure_with_floors(
        {"model": lambda: spend("model", 30.0)},
        {"dense": {shared: 5}, "pruned": {shared: 1, own: 2}},
        rounds=2,
        warmup=0,
        items=3,
    )
    assert sorted(order[:4]) == ["own"] * 2 + ["shared"] * 2, "to see how long they take"
    for turn in (order[4:12], order[12:]):
        assert turn.count("shared") == 1 + 3, "one untimed, then at least 2 ms of it"
        assert turn.count("own") == 1 + 1
        assert turn.count("model") == 1 + 1
    assert (times.items, list(times.times)) == (3, ["model"])
    assert times.median("model") == pytest.approx(30)
    assert floors["dense"].ms == pytest.approx(5 * 0.8)
    assert floors["pruned"].ms == pytest.approx(0.8 + 2 * 4.0)
    assert floors["dense"].load == floors["pruned"].as_dict()["load"] == times.load


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_of_product_can_be_measured(dtype: torch.dtype) -> None:
    products = {
        Gemm(8, 4, 6, None, dtype): 1,
        Gemm(8, 4, 1, None, dtype): 1,
        Gemm(8, 4, 6, 3, dtype): 1,
        Sdpa(2, 2, 8, 6, 4, False, dtype): 1,
        Sdpa(2, 2, 8, 6, 4, True, dtype): 1,
    }
    operands = floor._Operands(torch.device("cpu"))
    for product in products:
        out = operands.call(product)()
        assert record_matmuls(operands.call(product)) == {product: 1}
        assert out.dtype == dtype
    _, floors = measure_with_floors({}, {"all": products}, rounds=1, warmup=0)
    assert all(ms > 0 for (ms,) in floors["all"].times.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packed_weights_give_the_same_numbers(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, other = Gemm(8, 64, 48, None, dtype), Gemm(16, 64, 32, None, dtype)
    found = packed_matmuls({layer: 3, other: 1})
    if found is None:
        pytest.skip(f"this CPU packs no weights in {dtype}")
    assert found == {layer._replace(packed=True): 3, other._replace(packed=True): 1}
    packings = []
    real = floor.pack
    monkeypatch.setattr(floor, "pack", lambda *args: (packings.append(args[1]), real(*args))[1])
    operands = floor._Operands(torch.device("cpu"))
    for product in (layer, layer, other, layer):
        expected = operands.call(product)()
        got = operands.call(product._replace(packed=True))()
        error = (got.float() - expected.float()).abs().max()
        assert error <= 8 * torch.finfo(dtype).eps * expected.float().abs().max()
    assert packings == [8, 16, 8], "the last one stays"


def test_only_layers_are_packed_and_only_where_the_cpu_can(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, vector = Gemm(8, 4, 6, None, F32), Gemm(8, 4, 1, None, F32)
    rows, attention = Gemm(8, 4, 6, 3, F32), Sdpa(2, 2, 8, 6, 4, False, F32)
    products = {layer: 1, vector: 2, rows: 3, attention: 4}
    monkeypatch.setattr(packed_weights, "_is_packed", lambda dtype: True)
    others = {vector: 2, rows: 3, attention: 4}
    assert packed_matmuls(products) == {layer._replace(packed=True): 1} | others
    monkeypatch.setattr(packed_weights, "_is_packed", lambda dtype: False)
    assert packed_matmuls(products) is None


@pytest.mark.skipif(not hasattr(torch.nn, "attention"), reason="torch 2.1 cannot restrict kernels")
def test_attention_is_measured_with_the_kernel_it_ran_with() -> None:
    q = torch.randn(1, 2, 8, 4)
    (auto,) = record_matmuls(lambda: F.scaled_dot_product_attention(q, q, q))
    (only,) = record_matmuls(lambda: F.scaled_dot_product_attention(q, q, q), kernel="math")
    assert (auto.kernel, only) == ("auto", auto._replace(kernel="math"))
    operands, allowed = floor._Operands(torch.device("cpu")), []
    for product in (auto, only):

        def call(product: Sdpa = product) -> None:
            operands.call(product)()
            allowed.append(torch.backends.cuda.flash_sdp_enabled())

        floor._sample(product, call, times=1)
    assert allowed == [True, False]


def test_no_product_is_named() -> None:
    with pytest.raises(ValueError, match="encoders with matmuls, got none"):
        measure_with_floors({}, {"empty": {}})


def test_meta_twin_shares_nothing_and_holds_nothing() -> None:
    encoder = CroprViT(**ENCODERS["cropr"])
    twin = meta_twin(encoder)
    assert {p.device.type for p in (*twin.parameters(), *twin.buffers())} == {"meta"}
    assert {p.device.type for p in encoder.parameters()} == {"cpu"}
    assert encoder.training
    assert not twin.training
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in encoder.named_parameters()]
    assert encoder_cost(twin).macs == encoder_cost(meta_twin(encoder)).macs
