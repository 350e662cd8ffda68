"""The pruned encoder against the paper's step written out naively, and against the dense one."""

import copy

import pytest
import torch
import torch._dynamo.testing
from naive import naive_pruned_forward, randomize
from torch import nn

from cropr_mm import CroprViT

TOLERANCE = 1e-5
EVA = dict(
    embed_dim=24,
    depth=6,
    num_heads=2,
    hidden_dim=32,
    mlp="swiglu",
    attn_bias="qv",
    rope="eva",
    patch_size=4,
)
PLAIN = dict(embed_dim=24, depth=6, num_heads=2, hidden_dim=32, patch_size=4)
REGISTERS = dict(PLAIN, rope="dinov3", rope_temperature=100.0, pos_embed=False, num_registers=2)
LLF = dict(type="cropr_mm.LastLayerFusion")
WINDOWS = dict(window_size=2, global_block_indexes=(2, 5), with_cls_token=False)


def pruned(
    arch: dict, keep: dict[int, int], img_size: tuple[int, int] = (32, 24), **kwargs: object
) -> CroprViT:
    kwargs = {
        "reducer": dict(type="cropr_mm.Cropr", num_queries=3, num_classes=5),
        "schedule": dict(type="cropr_mm.ExplicitTokens", num_keep=keep),
        **kwargs,
    }
    model = CroprViT(arch, img_size=img_size, **kwargs)
    randomize(model)
    return model.eval()


def listen(model: CroprViT, collected: list | None = None) -> list:
    """Stand in for the auxiliary-loss hook."""
    collected = [] if collected is None else collected
    for reducer in model.reducers.values():
        reducer.listen(collected.append)
    return collected


@pytest.mark.parametrize("fusion", [LLF, None], ids=["llf", "no_fusion"])
@pytest.mark.parametrize("arch", [EVA, PLAIN], ids=["eva", "plain"])
def test_pruned_model_equals_the_papers_step(arch: dict, fusion: dict | None) -> None:
    keep = {0: 30, 1: 19, 3: 7}
    model = pruned(arch, keep, fusion=fusion)
    img = torch.randn(1, 3, 32, 24)
    with torch.no_grad():
        expected = naive_pruned_forward(model, img, keep, {})
        (got,) = model(img)
    torch.testing.assert_close(got, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("window_rope", ["origin", "slot"])
@pytest.mark.parametrize("order", ["window", "raster"])
def test_pruned_windows_equal_the_papers_step(order: str, window_rope: str) -> None:
    keep = {1: 24, 3: 8}
    model = pruned(EVA, keep, fusion=LLF, survivor_order=order, window_rope=window_rope, **WINDOWS)
    # 24 = 6 windows of 2 x 2 as 3 x 2, 8 = 2 windows as 2 x 1, nearest the grid's 4:3
    rectangles = {1: (6, 4), 3: (4, 2)} if order == "raster" else {}
    img = torch.randn(1, 3, 32, 24)
    with torch.no_grad():
        expected = naive_pruned_forward(model, img, keep, rectangles)
        (got,) = model(img)
    torch.testing.assert_close(got, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("window_rope", ["origin", "slot"])
@pytest.mark.parametrize("arch", [EVA, REGISTERS], ids=["class", "class_and_registers"])
def test_pruned_windows_with_a_prefix_equal_the_papers_step(arch: dict, window_rope: str) -> None:
    keep = {1: 24, 3: 8}
    windows = dict(WINDOWS, with_cls_token=True, window_rope=window_rope)
    model = pruned(arch, keep, fusion=LLF, **windows)
    img = torch.randn(1, 3, 32, 24)
    with torch.no_grad():
        expected = naive_pruned_forward(model, img, keep, {})
        (got,) = model(img)
    assert model.num_prefix == (3 if arch is REGISTERS else 1)
    torch.testing.assert_close(got, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_orders_and_rope_options_differ() -> None:
    base = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, **WINDOWS)
    img = torch.randn(1, 3, 32, 24)
    outputs = []
    for order in ("window", "raster"):
        for rope in ("origin", "slot"):
            other = pruned(
                EVA, {1: 24, 3: 8}, fusion=LLF, survivor_order=order, window_rope=rope, **WINDOWS
            )
            other.load_state_dict(base.state_dict())
            with torch.no_grad():
                outputs.append(other(img)[0])
    for i, a in enumerate(outputs):
        for b in outputs[i + 1 :]:
            assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["global", "windows"])
def test_keeping_all_tokens_equals_dense_exactly(windows: dict) -> None:
    model = pruned(EVA, {1: 48}, fusion=LLF, **windows)
    assert list(model.reducers) == ["1"]
    dense = CroprViT(EVA, img_size=(32, 24), **windows).eval()
    state = model.state_dict()
    dense.load_state_dict({name: value for name, value in state.items() if "reducers" not in name})
    img = torch.randn(2, 3, 32, 24)
    with torch.no_grad():
        assert torch.equal(model(img)[0], dense(img)[0])


@pytest.mark.parametrize("with_cp", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize(
    ("arch", "options"),
    [
        (EVA, {}),
        (EVA, WINDOWS),
        (PLAIN, dict(WINDOWS, use_rel_pos=True, window_rope="slot")),
        (dict(PLAIN, layer_scale=1e-5, num_registers=4, pos_embed_prefix=False), {}),
        (dict(EVA, rope="dinov3", attn_norm=True, mlp_norm=True), {}),
    ],
    ids=["eva", "eva_windows", "rel_pos", "layer_scale_registers", "dinov3_sub_norms"],
)
def test_gradients_reach_every_parameter(arch: dict, options: dict, with_cp: bool) -> None:
    model = pruned(arch, {1: 24, 3: 8}, fusion=LLF, with_cp=with_cp, **options).train()
    logits = listen(model)
    (out,) = model(torch.randn(2, 3, 32, 24))
    loss = out.square().mean() + sum(one.square().mean() for one in logits)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_checkpointing_changes_neither_output_nor_gradients() -> None:
    plain = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, **WINDOWS).train()
    saving = copy.deepcopy(plain)
    saving.with_cp = True
    img = torch.randn(2, 3, 32, 24)
    for model in (plain, saving):
        listen(model)
        model(img)[0].square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize(
    "reducer",
    [
        dict(type="cropr_mm.RandomPruner"),
        dict(type="cropr_mm.VariancePruner"),
        dict(type="cropr_mm.AttnTopK", signal="column_mean"),
        dict(type="cropr_mm.AttnTopK", signal="column_mean", site="between"),
        dict(type="cropr_mm.NonSalient", num_classes=5),
        dict(type="cropr_mm.RadialPruner"),
        dict(type="cropr_mm.KMedoids"),
        dict(type="cropr_mm.KMedoids", equal_weight=True),
        dict(type="cropr_mm.ETPS", signal="column_mean"),
    ],
    ids=[
        *("random", "variance", "attn_after", "attn_between", "non_salient", "radial"),
        *("k_medoids", "k_medoids_equal", "etps"),
    ],
)
@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["global", "windows"])
def test_every_pruner_runs_and_gives_all_tokens_back(reducer: dict, windows: dict) -> None:
    model = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, reducer=reducer, **windows)
    left = {}
    for block, module in model.reducers.items():
        module.register_forward_hook(lambda _, __, out, b=block: left.update({b: out}))
    (out,) = model(torch.randn(2, 3, 32, 24))
    assert out.shape == (2, 24, 8, 6)
    assert out.isfinite().all()
    assert [left[b].kept.num_patches for b in "13"] == [24, 8]
    ids = torch.cat([left["1"].dropped.index, left["3"].dropped.index, left["3"].kept.index], dim=1)
    assert torch.equal(ids.sort(dim=1).values, torch.arange(48).expand(2, -1))


def test_attention_pruner_reads_the_class_token() -> None:
    model = pruned(PLAIN, {1: 24}, reducer=dict(type="cropr_mm.AttnTopK", signal="cls_row"))
    seen = []
    model.reducers["1"].register_forward_pre_hook(lambda _, args: seen.append(args))
    img = torch.randn(1, 3, 32, 24)
    inputs = []
    model.blocks[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        model(img)
        attn, x = model.blocks[1].attn, model.blocks[1].norm1(inputs[0])
        q, k, _ = attn.qkv(x).view(1, 49, 3, 2, 12).permute(2, 0, 3, 1, 4)
        matrix = (q @ k.transpose(-2, -1) * 12**-0.5).softmax(-1).mean(1)
    torch.testing.assert_close(seen[0][2].cls_row, matrix[:, 0, 1:])


@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["global", "windows"])
def test_tapped_blocks_return_the_full_map(windows: dict) -> None:
    model = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, out_indices=(0, 2, 4, 5), **windows)
    dense = model.unpruned()
    inputs, left = [], {}
    model.blocks[2].register_forward_hook(lambda _, __, out: inputs.append(out[0]))
    model.reducers["1"].register_forward_hook(lambda _, __, out: left.update(step=out))
    img = torch.randn(2, 3, 32, 24)
    with torch.no_grad():
        outputs, reference = model(img), dense(img)
    assert [o.shape for o in outputs] == [(2, 24, 8, 6)] * 4
    assert torch.equal(outputs[0], reference[0])
    kept, dropped, _ = left["step"]
    alive = inputs[0][:, model.num_prefix :]
    for image in range(2):
        flat = outputs[1][image].flatten(1).t()
        assert torch.equal(flat[kept.index[image]], alive[image])
        assert torch.equal(flat[dropped.index[image]], dropped.x[image])


def test_attention_signals_hold_no_graph() -> None:
    reducer = dict(type="cropr_mm.AttnTopK", signal="column_mean")
    model = pruned(EVA, {1: 24}, fusion=LLF, reducer=reducer).train()
    seen = []
    model.reducers["1"].register_forward_pre_hook(lambda _, args: seen.append(args[2].column_mean))
    model(torch.randn(1, 3, 32, 24))
    assert not seen[0].requires_grad


def test_images_of_a_batch_do_not_mix() -> None:
    model = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, **WINDOWS)
    img = torch.randn(3, 3, 32, 24)
    with torch.no_grad():
        together = model(img)[0]
        alone = torch.cat([model(one[None])[0] for one in img])
    torch.testing.assert_close(together, alone, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["global", "windows"])
def test_deployed_model_equals_the_trained_one(windows: dict) -> None:
    trained = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, **windows)
    stripped = copy.deepcopy(trained)
    stripped.switch_to_deploy()
    fresh = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, deploy=True, **windows)
    fresh.load_state_dict(stripped.state_dict())
    assert {n for n in fresh.state_dict() if n.startswith("reducers")} == {
        "reducers.1.query",
        "reducers.3.query",
    }
    img = torch.randn(2, 3, 32, 24)
    with torch.no_grad():
        torch.testing.assert_close(fresh(img), trained(img), rtol=0, atol=0)


def test_unpruned_twin_shares_parameters_and_reduces_nothing() -> None:
    model = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, **WINDOWS)
    twin = model.unpruned()
    assert twin.tokens_per_block() == [48] * 6
    assert model.tokens_per_block() == [48, 48, 24, 24, 8, 48]
    assert twin.blocks[0].attn.qkv.weight is model.blocks[0].attn.qkv.weight
    model.blocks[0].attn.qkv.weight.data.mul_(2)
    dense = CroprViT(EVA, img_size=(32, 24), **WINDOWS).eval()
    dense.load_state_dict({k: v for k, v in model.state_dict().items() if "reducers" not in k})
    img = torch.randn(1, 3, 32, 24)
    with torch.no_grad():
        assert torch.equal(twin(img)[0], dense(img)[0])
        assert not torch.equal(twin(img)[0], model(img)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    if dtype == torch.float16 and torch.__version__ < (2, 2):
        pytest.skip("torch 2.1 has no float16 convolution on the CPU")
    model = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, **WINDOWS)
    for parameter in model.parameters():
        parameter.data *= 0.3
    img = torch.randn(1, 3, 32, 24)
    steps: list[list] = [[], []]
    for block in "13":
        model.reducers[block].register_forward_hook(lambda _, __, out: steps[0].append(out))
    with torch.no_grad():
        (full,) = model(img)
        steps.reverse()
        (half,) = model.to(dtype)(img.to(dtype))
    assert half.dtype == dtype
    close = [a.kept.index.eq(b.kept.index).all() for a, b in zip(*steps, strict=True)]
    assert all(close), "the seed gives scores that half precision swaps: choose another"
    assert (half - full).abs().max() < 64 * torch.finfo(dtype).eps * full.abs().max()


@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["global", "windows"])
@pytest.mark.parametrize("side", [32, 40], ids=["native", "other"])
def test_tables_of_any_grid_have_the_precision_of_the_weights(windows: dict, side: int) -> None:
    positions = CroprViT(EVA, img_size=(32, 24), **windows).bfloat16().positions
    tables = positions.tables((side // 8, 3), torch.device("cpu"))
    for rope in (tables.rope, tables.window_rope) if windows else (tables.rope,):
        assert {table.dtype for table in rope} == {torch.bfloat16}


@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["global", "windows"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_compiles_to_one_graph_without_recompiling(windows: dict, mode: str) -> None:
    model = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, **windows)
    if mode == "train":
        model.train()
        for reducer in model.reducers.values():
            reducer.listen(lambda _: None)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    for _ in range(3):
        img = torch.randn(2, 3, 32, 24)
        with torch.set_grad_enabled(mode == "train"):
            torch.testing.assert_close(compiled(img), model(img), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize("deploy", [False, True], ids=["trained", "deployed"])
@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["global", "windows"])
def test_exports(windows: dict, deploy: bool) -> None:
    model = pruned(EVA, {1: 24, 3: 8}, fusion=LLF, deploy=deploy, **windows)
    program = torch.export.export(model, (torch.randn(2, 3, 32, 24),))
    for _ in range(2):
        img = torch.randn(2, 3, 32, 24)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(img), model(img))


def test_drop_path_spares_the_last_block_of_a_pruned_encoder() -> None:
    rates = {"drop_path_rate": 0.5}
    fused = pruned(EVA, {1: 24}, fusion=LLF, **rates)
    plain = CroprViT(EVA, img_size=32, **rates)
    assert [b.drop_path1.drop_prob for b in fused.blocks] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0]
    )
    assert plain.blocks[-1].drop_path2.drop_prob == pytest.approx(0.5)
    assert pruned(EVA, {1: 24}, **rates).blocks[-1].drop_path1.drop_prob == 0
    listed = CroprViT(EVA, img_size=32, drop_path_rate=[0.1] * 5 + [0.0])
    assert [b.drop_path1.drop_prob for b in listed.blocks] == [0.1] * 5 + [0.0]


def test_frozen_stages_get_no_gradient_and_stay_in_eval() -> None:
    model = pruned(PLAIN, {1: 24, 3: 8}, fusion=LLF, frozen_stages=2, drop_path_rate=0.5).train()
    listen(model)
    model(torch.randn(2, 3, 32, 24))[0].sum().backward()
    frozen = {
        n.split(".")[0] + n.partition("blocks")[2][:2]
        for n, p in model.named_parameters()
        if not p.requires_grad
    }
    assert frozen == {"cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1"}
    assert not model.blocks[1].training
    assert model.blocks[2].training
    assert isinstance(model.norm, nn.LayerNorm)
